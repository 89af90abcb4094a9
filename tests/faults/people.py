"""People at their devices, as a careful client behaves: they write without a rest, come back after each end of a socket, to
whichever process, and send what was not answered again under the ids that it had."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.device import Device, Frame, SocketClosed, doc, new_id

_LOST = (SocketClosed, aiohttp.ClientError, ConnectionError, TimeoutError)


class Person:
    """One device that keeps itself connected to one of several processes."""

    def __init__(self, urls: Sequence[str], name: str, *, pause: float = 0.5, seed: int = 0) -> None:
        """`pause`: up to which it waits before it comes back, by chance, doubling while it is refused."""
        self.urls = list(urls)
        self.name = name
        self.ends: list[int | None] = []
        """The codes with which its sockets ended."""
        self.gaps: list[float] = []
        """Seconds between the end of a socket and the next `ready`."""
        self.turned_away: list[int | None] = []
        """The codes with which it was refused; None: nobody listened."""
        self.over = asyncio.Event()
        self.device = Device(self.urls[0], name)
        self._pause = pause
        self._chance = random.Random(f"{seed} {name}")

    @property
    def finished(self) -> bool:
        return self.over.is_set()

    async def live(self) -> None:
        """Runs until `over` is set and what was begun is finished."""
        loop = asyncio.get_running_loop()
        left: float | None = None
        while not self.finished:
            await self._come_back()
            if left is not None:
                self.gaps.append(loop.time() - left)
            try:
                await self.connected()
            except _LOST:
                pass
            left = loop.time()
            if not self.finished:
                self.ends.append(self.device.close_code)
            await self.device.close()

    async def _come_back(self) -> None:
        """Returns when it is connected and ready, after as many tries as that takes."""
        for refused in range(1000):
            if refused or self.ends:
                await asyncio.sleep(self._chance.uniform(0, self._pause * 2 ** min(refused, 4)))
            # Not to where it was just refused: a load balancer looks at `/readyz`.
            refuser = self.device.url if refused else None
            self.device.url = self._chance.choice([url for url in self.urls if url != refuser] or self.urls)
            try:
                await self.device.connect()
                answer = await self.device.sign_in()
                if answer["type"] == "ready":
                    return
                assert answer["payload"]["code"] == "unavailable", answer
                self.turned_away.append(await self.device.closed())
            except _LOST:
                self.turned_away.append(None)
            await self.device.close()
        raise AssertionError("nobody lets it in")

    async def connected(self) -> None:
        """What it does while it is connected; returns or raises at the socket's end, or when it is over."""
        ended = asyncio.ensure_future(self.device.wait_closed())
        over = asyncio.ensure_future(self.over.wait())
        try:
            await asyncio.wait([ended, over], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            over.cancel()
            await asyncio.gather(ended, over, return_exceptions=True)


class Writer(Person):
    """Says one message after the other, in a new chat every so often; where it is `drafting`, each from a draft."""

    def __init__(
        self,
        urls: Sequence[str],
        name: str,
        *,
        per_chat: int = 5,
        rest: float = 0.01,
        drafting: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(urls, name, **more)
        self.accepted: list[tuple[str, str]] = []
        """Chat and message as the client calls them, in the order in which they were accepted."""
        self.drafts: dict[str, tuple[int, str]] = {}
        """By chat the highest version that was accepted, and its text."""
        self.sent = 0
        """Frames, those that were sent again too."""
        self.repeated = 0
        self._per_chat = per_chat
        self._rest = rest
        self._drafting = drafting
        self._open: list[tuple[str, str, dict[str, Any]]] = []
        """What has to be answered next, in order; the first was perhaps sent before."""
        self._tried: set[str] = set()

    @property
    def finished(self) -> bool:
        return self.over.is_set() and not self._open

    async def connected(self) -> None:
        while not self.finished:
            if not self._open:
                self._open = self._next()
            operation, type_, payload = self._open[0]
            self.sent += 1
            self.repeated += operation in self._tried
            self._tried.add(operation)
            answer = await self.device.ask(type_, payload, operation)
            if answer["type"] == "error":
                assert answer["payload"]["retryable"], answer
                await asyncio.sleep(min(0.5, answer["payload"].get("retryAfterMs", 100) / 1000))
                continue
            self._open.pop(0)
            self._take_in(type_, payload, answer)
            await asyncio.sleep(self._rest)

    def _next(self) -> list[tuple[str, str, dict[str, Any]]]:
        number = len(self.accepted)
        chat, message = f"c{number // self._per_chat}", f"m{number}"
        version, _ = self.drafts.get(chat, (0, ""))
        text = doc(f"{self.name} {message}")
        edit = {"tempChatId": chat, "content": text, "basedOnVersion": version}
        sent: dict[str, Any] = {"tempChatId": chat, "clientMessageId": message, "content": text}
        if not self._drafting:
            return [(new_id(), "message_send", sent)]
        sent["draftVersion"] = version + 1
        return [(new_id(), "draft_update", edit), (new_id(), "message_send", sent)]

    def _take_in(self, type_: str, payload: dict[str, Any], answer: Frame) -> None:
        said = answer["payload"]
        chat = payload["tempChatId"]
        if type_ == "draft_update":
            assert answer["type"] in ("draft_updated", "chat_initiated"), answer
            assert said["version"] == payload["basedOnVersion"] + 1, "nobody else writes here"
            self.drafts[chat] = said["version"], f"{self.name} m{len(self.accepted)}"
        else:
            assert answer["type"] == "message_accepted", answer
            assert said["consumed"] == self._drafting, answer
            self.drafts[chat] = said["version"], ""
            self.accepted.append((chat, payload["clientMessageId"]))


class Watcher(Person):
    """A second device of a person, which only looks: what it is told must be each message once, in its order, without a gap."""

    def __init__(self, urls: Sequence[str], name: str, **more: Any) -> None:
        super().__init__(urls, name, **more)
        self.messages: dict[str, dict[int, str]] = {}
        """By full chat id and place in the chat the messages' ids, as it was told of them."""
        self.heard = 0
        """Messages that came as events."""
        self._cursor: str | None = None

    async def connected(self) -> None:
        known = {} if self._cursor is None else {"cursor": self._cursor}
        while True:
            frames = await self.device.sync(**known)
            if frames[-1]["·type"] != "error":
                break
            await asyncio.sleep(0.2)
        for frame in frames:
            for chat in frame["chats"]:
                if "messages" in chat:
                    self._learn(chat)
        self._cursor = frames[-1]["cursor"]
        while not self.finished:
            event = await self.device.next_event()
            if event is None or self._synced(event):
                continue
            if event["type"] == "resync_required":
                self._cursor = None
                raise SocketClosed(None)
            if event["type"] == "message_new":
                self._hear(event["payload"]["message"])
            self._cursor = event["payload"].get("cursor", self._cursor)

    def _synced(self, event: Frame) -> bool:
        """Whether it came before the sync was complete, which has told it: such events are not applied (semantics §6)."""
        cursor = event["payload"].get("cursor")
        if cursor is None or self._cursor is None:
            return False
        (epoch, offset, _), (own, reached, _) = cursor.split("."), self._cursor.split(".")
        return bool(epoch == own and int(offset) <= int(reached))

    def _learn(self, chat: Frame) -> None:
        found = self.messages.setdefault(chat["id"], {})
        for message in chat["messages"]:
            known = found.setdefault(message["sequence"], message["id"])
            assert known == message["id"], "two messages in one place"
        places = sorted(found)
        if places:
            assert places == list(range(places[0], places[-1] + 1)), "nothing may be missing in between"
            assert places[0] == 1 or chat["has_more_messages"]

    def _hear(self, message: Frame) -> None:
        self.heard += 1
        found = self.messages.setdefault(message["chat_id"], {})
        assert message["sequence"] == max(found, default=0) + 1, "told twice, out of order, or after a gap"
        found[message["sequence"]] = message["id"]


@asynccontextmanager
async def alive(people: Sequence[Person], patience: float = 60) -> AsyncIterator[None]:
    """They live while it is entered, and finish then what they began. What goes wrong with one of them ends the test at once."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(person.live()) for person in people]
            yield
            for person in people:
                person.over.set()
            _, late = await asyncio.wait(tasks, timeout=patience)
            assert not late, "somebody was never answered"
    finally:
        for person in people:
            await person.device.close()
