"""A device for tests: a WebSocket client that checks every frame, in both directions, against the schema."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Self

import aiohttp
import orjson

from sidecar.testing.frames import check, check_client

Frame = dict[str, Any]
DOC: Mapping[str, Any] = {"type": "doc", "content": [{"type": "paragraph"}]}


def doc(text: str) -> dict[str, Any]:
    """A one-paragraph Tiptap document."""
    return {"type": "doc", "content": [{"type": "paragraph", "content": [{"type": "text", "text": text}]}]}


def new_id() -> str:
    return secrets.token_urlsafe(12)


class SocketClosed(Exception):
    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Device:
    """One device of a person. `open()` connects and signs in; `ask` sends a frame and returns its one answer."""

    def __init__(self, url: str, name: str = "alice", *, token: str | None = None, wait: float = 10.0) -> None:
        self.url = url
        self.token = token if token is not None else f"dev:{name}"
        self.wait = wait
        self.proof: dict[str, str] | None = None
        self.ready: Frame = {}
        self.hello: Frame = {}
        self.events: list[Frame] = []
        """Events in the order of their arrival."""
        self.close_code: int | None = None
        self._session: aiohttp.ClientSession | None = None
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answers: dict[str, asyncio.Queue[Frame]] = {}
        self._arrived = asyncio.Condition()

    @property
    def user(self) -> str:
        return str(self.ready["hashedUserId"])

    def full(self, client_chat_id: str) -> str:
        return f"{self.user[:8]}_{client_chat_id}"

    async def connect(self, **headers: str) -> Self:
        """The socket alone, without `auth`."""
        self.events = []
        self.close_code = None
        self._answers = {}
        self._session = aiohttp.ClientSession()
        self._ws = await self._session.ws_connect(f"{self.url}/ws", headers=headers, max_msg_size=0, compress=0)
        self._reader = asyncio.create_task(self._read())
        return self

    async def open(self, **headers: str) -> Self:
        """Connected and ready."""
        await self.connect(**headers)
        answer = await self.sign_in()
        assert answer["type"] == "ready", answer
        return self

    async def sign_in(self) -> Frame:
        """Sends `auth` and returns its answer, which is `ready` or an error."""
        payload: dict[str, Any] = {"token": self.token, "protocol": 1}
        if self.proof is not None:
            payload["device"] = self.proof
        answer = await self.ask("auth", payload)
        if answer["type"] == "ready":
            self.ready = answer["payload"]
            device = self.ready["device"]
            if "secret" in device:
                self.proof = {"id": device["id"], "secret": device["secret"]}
        return answer

    async def close(self) -> None:
        if self._ws is not None:
            await self._ws.close()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        self._ws = None

    async def cut(self) -> None:
        """Loses the connection without a word."""
        assert self._ws is not None
        transport = self._ws._response.connection
        if transport is not None and transport.transport is not None:
            transport.transport.abort()
        await self.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, type_: str, payload: Mapping[str, Any], id_: str | None = None) -> str:
        """Sends a frame and returns its id, without waiting for the answer."""
        id_ = id_ or new_id()
        frame = {"type": type_, "id": id_, "payload": payload}
        check_client(frame)
        self._answers.setdefault(id_, asyncio.Queue())
        await self.send_raw(orjson.dumps(frame).decode())
        return id_

    async def send_raw(self, text: str | bytes) -> None:
        assert self._ws is not None
        if isinstance(text, bytes):
            await self._ws.send_bytes(text)
        else:
            await self._ws.send_str(text)

    async def answer(self, id_: str) -> Frame:
        """The next frame that answers this id."""
        queue = self._answers.setdefault(id_, asyncio.Queue())
        async with asyncio.timeout(self.wait):
            frame = await queue.get()
        if frame["type"] == "·closed":
            raise SocketClosed(self.close_code)
        return frame

    async def ask(self, type_: str, payload: Mapping[str, Any], id_: str | None = None) -> Frame:
        return await self.answer(await self.send(type_, payload, id_))

    async def sync(self, **payload: Any) -> list[Frame]:
        """The payloads of a sync's answer, up to `complete`; a run that ends with an error ends with that payload."""
        id_ = await self.send("sync_request", payload)
        frames: list[Frame] = []
        while True:
            frame = await self.answer(id_)
            frames.append({"·type": frame["type"], **frame["payload"]})
            if frame["type"] == "error" or frame["payload"].get("complete"):
                return frames

    async def event(self, type_: str, where: Callable[[Frame], bool] = lambda _: True) -> Frame:
        """The payload of the first event of this type (that has come or comes), which is taken out of `events`."""
        async with asyncio.timeout(self.wait):
            async with self._arrived:
                while True:
                    for frame in self.events:
                        if frame["type"] == type_ and where(frame["payload"]):
                            self.events.remove(frame)
                            return dict(frame["payload"])
                    if self.close_code is not None:
                        raise SocketClosed(self.close_code)
                    await self._arrived.wait()

    async def next_event(self, seconds: float = 0.2) -> Frame | None:
        """The oldest event, taken out of `events`; None when none came for a while. Raises `SocketClosed` at the end."""
        try:
            async with asyncio.timeout(seconds), self._arrived:
                while not self.events:
                    if self.close_code is not None:
                        raise SocketClosed(self.close_code)
                    await self._arrived.wait()
                return self.events.pop(0)
        except TimeoutError:
            return None

    async def quiet(self, seconds: float = 0.3) -> list[Frame]:
        """What events are there after a while."""
        await asyncio.sleep(seconds)
        return self.events

    async def wait_closed(self) -> None:
        """Waits for the socket's end, however long it takes."""
        assert self._reader is not None
        await asyncio.shield(self._reader)

    async def closed(self) -> int | None:
        """Waits for the server to close, and returns the code."""
        assert self._reader is not None
        async with asyncio.timeout(self.wait):
            await asyncio.shield(self._reader)
        return self.close_code

    async def _read(self) -> None:
        assert self._ws is not None
        async for message in self._ws:
            assert message.type is aiohttp.WSMsgType.TEXT, message
            frame = orjson.loads(message.data)
            check(frame)
            async with self._arrived:
                if frame["type"] == "hello":
                    self.hello = frame["payload"]
                elif "re" in frame:
                    self._answers.setdefault(frame["re"], asyncio.Queue()).put_nowait(frame)
                else:
                    self.events.append(frame)
                self._arrived.notify_all()
        async with self._arrived:
            self.close_code = self._ws.close_code if self._ws.close_code is not None else 1006
            for queue in self._answers.values():
                queue.put_nowait({"type": "·closed", "payload": {}})
            self._arrived.notify_all()
