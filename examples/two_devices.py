"""Plays two devices of one person against a running sidecar, and says in plain words what happens.

    make run                                # in one terminal
    .venv/bin/python examples/two_devices.py  # in another

It needs nothing but aiohttp, takes the sidecar's address as its one argument, and may be run again and again: every run
works on a chat of its own. It ends with status 1 and a sentence as soon as something is not as the protocol promises.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp

URL = "ws://127.0.0.1:8770/ws"
TOKEN = os.environ.get("TOKEN", "dev:alice")  # the embedded sidecar lets anybody on this machine in by any name
PATIENCE = 10.0  # seconds for any answer or event
DRAFTS = Path(__file__).parent / "drafts"

Document = dict[str, Any]
Payload = dict[str, Any]


class Unexpected(Exception):
    """Something is not as the protocol promises; the text says what."""


def document(name: str) -> Document:
    """One of the drafts beside this file, as Tiptap wrote it."""
    found: Document = json.loads((DRAFTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def texts(node: Document) -> Iterator[str]:
    """What a person reads of a document, piece by piece."""
    if node.get("type") == "text":
        yield node["text"]
    elif node.get("type") == "mention":
        yield f"@{node['attrs'].get('label') or node['attrs']['id']}"
    for child in node.get("content", ()):
        yield from texts(child)
        if "content" in child:  # a block: what follows is not the same word
            yield " "


def preview(content: Document | None) -> str:
    """The beginning of a document, in quotation marks."""
    if content is None:
        return "nothing"
    text = " ".join("".join(texts(content)).split())
    return f"“{text}”" if len(text) <= 48 else f"“{text[:47].rstrip()}…”"


class Device:
    """One device: a socket, what the server told it, and the cursor up to which it knows everything."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._proof: dict[str, str] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._events: list[Payload] = []
        self.cursor: str | None = None

    def says(self, text: str) -> None:
        print(f"  {self._name:<7} {text}", flush=True)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def connect(self) -> None:
        """Connects and signs in: as a device of its own, and the next time as the same one."""
        self._session = aiohttp.ClientSession()
        try:
            self._ws = await self._session.ws_connect(self._url, max_msg_size=0)
        except BaseException:
            await self._session.close()
            raise
        payload: Payload = {"token": TOKEN, "protocol": 1, "client": {"name": "two_devices", "version": "1"}}
        if self._proof is not None:
            payload["device"] = self._proof
        ready = await self.ask("auth", payload, "ready")
        device = ready["device"]
        if "secret" in device:
            self._proof = {"id": device["id"], "secret": device["secret"]}

    async def disconnect(self) -> None:
        if self._ws is not None:
            await self._ws.close()
        if self._session is not None:
            await self._session.close()
        self._ws = self._session = None
        self._events.clear()

    async def ask(self, type_: str, payload: Payload, *expected: str, op: str | None = None) -> Payload:
        """Sends a frame and returns the payload of its answer, which must be of one of these types.

        `op` is the frame's id: every change has one of its own, and it names the revision that the change makes.
        """
        re = op or new_op()
        await self._send({"type": type_, "id": re, "payload": payload})
        answer = await self._next(lambda frame: frame.get("re") == re, f"the answer to {type_}")
        if answer["type"] not in expected:
            what = answer["payload"].get("message") or answer["payload"].get("reason") or "without a reason"
            raise Unexpected(f"{type_} was answered with {answer['type']} ({what}) instead of {' or '.join(expected)}")
        return self._applied(answer)

    async def sync(self) -> list[Payload]:
        """Everything since the cursor, or everything; the payloads of all frames up to `complete`."""
        re = new_op()
        await self._send({"type": "sync_request", "id": re, "payload": {"cursor": self.cursor} if self.cursor else {}})
        frames: list[Payload] = []
        while not frames or not frames[-1]["complete"]:
            frame = await self._next(lambda frame: frame.get("re") == re, "the rest of the sync")
            if frame["type"] not in ("initial_sync_data", "sync_delta"):
                raise Unexpected(f"the sync was answered with {frame['type']}: {frame['payload'].get('message')}")
            frames.append({"type": frame["type"], **frame["payload"]})
        self.cursor = frames[-1]["cursor"]
        return frames

    async def event(self, type_: str, chat: str) -> Payload:
        """The next event of this type about this chat; others about other chats are passed over."""

        def fits(frame: Payload) -> bool:
            return "re" not in frame and frame["type"] == type_ and chat in json.dumps(frame["payload"])

        return self._applied(await self._next(fits, f"`{type_}` on the {self._name}"))

    def _applied(self, frame: Payload) -> Payload:
        payload: Payload = frame["payload"]
        self.cursor = payload.get("cursor", self.cursor)
        return payload

    async def _send(self, frame: Payload) -> None:
        if self._ws is None:
            raise Unexpected(f"the {self._name} is not connected")
        await self._ws.send_str(json.dumps(frame))

    async def _next(self, fits: Callable[[Payload], bool], what: str) -> Payload:
        for frame in self._events:
            if fits(frame):
                self._events.remove(frame)
                return frame
        if self._ws is None:
            raise Unexpected(f"the {self._name} is not connected")
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    message = await self._ws.receive()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        raise Unexpected(f"the socket was closed ({self._ws.close_code}) instead of {what}")
                    frame = json.loads(message.data)
                    if fits(frame):
                        return dict(frame)
                    self._events.append(frame)
        except TimeoutError:
            raise Unexpected(f"{what} did not come within {PATIENCE:.0f} seconds") from None


def new_op() -> str:
    """An id for a frame; that of a change has at least 96 random bits."""
    return f"op-{secrets.token_hex(12)}"


def expect(found: object, wanted: object, what: str) -> None:
    """Goes on only if this is as it should be."""
    if found != wanted:
        raise Unexpected(f"{what} is {found!r} instead of {wanted!r}")


def step(text: str) -> None:
    print(f"\n{text}", flush=True)


async def play(url: str) -> None:
    """The whole play."""
    temp = str(uuid.uuid4())
    async with Device(url, "phone") as phone, Device(url, "laptop") as laptop:
        step("Two devices of alice connect.")
        for device in (phone, laptop):
            frames = await device.sync()
            device.says(f"is in sync: {frames[-1]['total']} chats from before")

        step("The phone begins a chat with a draft.")
        lists, op = document("lists"), new_op()
        begun = await phone.ask(
            "draft_update", {"tempChatId": temp, "content": lists, "basedOnVersion": 0}, "chat_initiated", op=op
        )
        chat = begun["finalChatId"]
        expect(begun["version"], 1, "the version of the first draft")
        phone.says(f"wrote {preview(lists)}: version 1 of a new chat")
        added = (await laptop.event("chat_added", chat))["chat"]
        expect(added["draft"], lists, "the draft that the laptop got")
        laptop.says(f"has it: {preview(added['draft'])}")

        step("The laptop goes on writing.")
        mentions, op_2 = document("mentions"), new_op()
        edit = {"chatId": chat, "content": mentions, "basedOnVersion": 1, "basedOnOp": op}
        edited = await laptop.ask("draft_update", edit, "draft_updated", op=op_2)
        expect(edited["version"], 2, "the version of the second draft")
        laptop.says(f"wrote {preview(mentions)}: version 2, {edited['durability']}")
        told = await phone.event("draft_updated", chat)
        expect(told["content"], mentions, "the draft that the phone got")
        phone.says(f"has it: {preview(told['content'])}")

        step("Both write at once, both on top of version 2. One is first.")
        code, emoji, op_3 = document("code"), document("emoji"), new_op()
        base = {"chatId": chat, "basedOnVersion": 2, "basedOnOp": op_2}
        first = await laptop.ask("draft_update", {**base, "content": code}, "draft_updated", op=op_3)
        expect(first["version"], 3, "the version of the third draft")
        laptop.says(f"wrote {preview(code)}: version 3")
        lost = await phone.ask("draft_update", {**base, "content": emoji}, "draft_conflict")
        expect((lost["reason"], lost["version"], lost["op"]), ("stale", 3, op_3), "the winner of the conflict")
        expect(lost["content"], code, "the winner's text")
        copy = emoji
        phone.says(f"wrote {preview(emoji)}, and was refused: version 3 came first")
        phone.says(f"shows the winner {preview(lost['content'])}")
        phone.says(f"keeps its own as a copy that alice can take back: {preview(copy)}")

        step("The phone names the chat.")
        title = "Plans for the autumn"
        named = await phone.ask("title_update", {"chatId": chat, "title": title, "basedOnVersion": 0}, "title_updated")
        expect(named["titleVersion"], 1, "the version of the title")
        phone.says(f"called it “{title}”; the draft is not touched by that")
        expect((await laptop.event("title_updated", chat))["title"], title, "the title that the laptop got")
        laptop.says(f"shows “{title}”")

        step("The laptop sends its draft as a message.")
        send = {
            "chatId": chat,
            "clientMessageId": str(uuid.uuid4()),
            "content": code,
            "draftVersion": 3,
            "draftOp": op_3,
        }
        sent = await laptop.ask("message_send", send, "message_accepted")
        expect((sent["consumed"], sent["version"]), (True, 4), "what became of the draft")
        laptop.says(f"sent {preview(code)}; the draft is used up (version 4)")
        cleared = await phone.event("draft_updated", chat)
        while cleared["version"] < 4:  # version 3 is told as an event too
            cleared = await phone.event("draft_updated", chat)
        expect((cleared["content"], cleared["reason"]), (None, "consumed"), "the draft on the phone")
        arrived = (await phone.event("message_new", chat))["message"]
        expect(arrived["content"], code, "the message that the phone got")
        phone.says(f"cleared the draft and shows the message {preview(arrived['content'])}")
        for device in (laptop, phone):
            update = await device.event("message_update", chat)
            expect((update["messageId"], update["status"]), (arrived["id"], "delivered"), "the message's status")
        laptop.says("knows that the store has it: delivered")

        step("The phone loses its connection, and the laptop writes on.")
        await phone.disconnect()
        rtl, short = document("rtl"), "Plans, and a date"
        for content, version in ((document("table"), 4), (rtl, 5)):
            await laptop.ask(
                "draft_update", {"chatId": chat, "content": content, "basedOnVersion": version}, "draft_updated"
            )
            laptop.says(f"wrote {preview(content)}: version {version + 1}")
        await laptop.ask("title_update", {"chatId": chat, "title": short, "basedOnVersion": 1}, "title_updated")
        laptop.says(f"called the chat “{short}”")

        step("The phone comes back and shows its cursor: it gets what it missed, and nothing else.")
        await phone.connect()
        frames = await phone.sync()
        expect([frame["type"] for frame in frames], ["sync_delta"], "the answer to the phone's cursor")
        missed = frames[0]
        expect([each["id"] for each in missed["chats"]], [chat], "the list of chats that changed")
        found = missed["chats"][0]
        expect((found["version"], found["draft"]), (6, rtl), "the draft that the phone missed")
        expect((found["title_version"], found["title"]), (2, short), "the title that the phone missed")
        expect("messages" in found, False, "that messages came again, though none is new,")
        expect((missed["missing"], missed["deleted"]), ([], []), "what is missing or deleted")
        phone.says(f"got one frame with one chat: the draft {preview(found['draft'])}")
        phone.says(f"and the title “{found['title']}”; not the draft in between, not the message that it has")
        again = await phone.sync()
        expect([frame["type"] for frame in again], ["sync_delta"], "the answer to the new cursor")
        expect(again[0]["chats"], [], "what changed since")
        phone.says("asked once more: nothing new")

        print("\nAll as promised.")


def main() -> int:
    if len(sys.argv) > 2 or any(each.startswith("-") for each in sys.argv[1:]):
        print(f"usage: [TOKEN=…] {Path(__file__).name} [URL]     the default is {URL}, and {TOKEN}", file=sys.stderr)
        return 2
    url = sys.argv[1] if len(sys.argv) == 2 else URL
    try:
        asyncio.run(play(url))
    except Unexpected as problem:
        print(f"\nNot as expected: {problem}.", file=sys.stderr)
    except aiohttp.InvalidURL:
        print(f"{url} is no address of a WebSocket; the default is {URL}.", file=sys.stderr)
    except aiohttp.ClientConnectionError:
        print(f"No sidecar answers at {url}: start it with make run.", file=sys.stderr)
    except aiohttp.WSServerHandshakeError as problem:
        print(
            f"What answers at {url} opens no WebSocket ({problem.status}): is it the sidecar, with /ws?",
            file=sys.stderr,
        )
    except aiohttp.ClientError as problem:
        print(f"The connection to {url} failed: {type(problem).__name__}.", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
