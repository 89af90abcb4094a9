"""Two devices of one person: one edits, and goes on when it has its answer and the other has the draft."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from itertools import cycle

from bench.drafts import Drafts
from bench.link import Link

_ANSWER = b'{"type":"draft_updated","re":"'
_BEGUN = b'{"type":"chat_initiated","re":"'
_EVENT = b'{"type":"draft_updated","payload"'
_OP = b'"op":"'
_PASSED_OVER = (b'{"type":"chat_stored"', b'{"type":"chat_added"', b'{"type":"message_update"', b'{"type":"hello"')


class BenchFailed(Exception):
    """The server did not answer as it should; the text says what came instead."""


class Chat:
    """A chat as its editor knows it."""

    __slots__ = ("id", "number", "op", "version")

    def __init__(self, id_: str, version: int = 0) -> None:
        self.id = id_.encode()
        self.version = version
        self.op = b""
        self.number = 0
        """Of the last edit."""


class _Lane:
    """One edit at a time."""

    __slots__ = ("answered", "chat", "chats", "op", "seen", "started")

    def __init__(self, chats: Iterator[Chat], first: Chat) -> None:
        self.chats = chats
        self.chat = first
        self.op = b""
        self.answered = False
        self.seen = False
        self.started = 0.0


class Pair:
    """Both devices. Every accepted draft is one more `latencies`: the seconds until the second device had it."""

    def __init__(self, one: Link, two: Link, name: str, drafts: Drafts) -> None:
        self._one = one
        self._two = two
        self._name = name
        self._drafts = drafts
        self._count = 0
        self._under_way: dict[bytes, _Lane] = {}
        self._until = 0.0
        self._done: asyncio.Future[None] | None = None
        self._last_event = b""
        self.latencies: list[float] = []
        one.on_frame, two.on_frame = self._answer, self._event
        one.on_closed = two.on_closed = self._fail

    @classmethod
    async def open(cls, url: str, name: str, drafts: Drafts) -> Pair:
        """Both connected and signed in as `name`."""
        one, two = await signed_in(url, name), await signed_in(url, name)
        return cls(one, two, name, drafts)

    async def close(self) -> None:
        self._one.on_closed = self._two.on_closed = lambda _: None
        await asyncio.gather(self._one.close(), self._two.close())

    async def begin(self, chat: Chat) -> None:
        """Makes the chat with its first draft."""
        op = self._next_op()
        self._one.send(self._drafts.update(op, chat.id, 0, 0, b"", new=True))
        answer = await self._one.next_frame(_BEGUN, b'{"type":"error"', b'{"type":"draft_conflict"')
        if not answer.startswith(_BEGUN):
            raise BenchFailed(f"no chat began: {_type_and_code(answer)}")
        chat.version, chat.op = 1, op

    async def edit(self, chats: Sequence[Chat], seconds: float, lanes: int = 1) -> None:
        """Edits for so long, going round these chats; `lanes` edits are under way at once, each of other chats."""
        self.latencies = []
        self._until = time.perf_counter() + seconds
        self._done = asyncio.get_running_loop().create_future()
        for number in range(min(lanes, len(chats))):
            mine = chats[number::lanes]
            self._next(_Lane(cycle(mine), mine[0]))
        await self._done
        self._check_last()

    def _next_op(self) -> bytes:
        self._count += 1
        return b"%b-%d" % (self._name.encode(), self._count)

    def _next(self, lane: _Lane) -> None:
        chat = lane.chat = next(lane.chats)
        lane.op = op = self._next_op()
        lane.answered = lane.seen = False
        chat.number = self._count
        frame = self._drafts.update(op, chat.id, chat.number, chat.version, chat.op)
        self._under_way[op] = lane
        lane.started = time.perf_counter()
        self._one.send(frame)

    def _answer(self, frame: bytes) -> None:
        if frame.startswith(_ANSWER):
            lane = self._under_way.get(frame[30 : frame.index(b'"', 30)])
            if lane is not None:
                lane.answered = True
                if lane.seen:
                    self._complete(lane)
                return
        elif frame.startswith(_PASSED_OVER):
            return
        self._fail(f"the first device got {_type_and_code(frame)}")

    def _event(self, frame: bytes) -> None:
        if frame.startswith(_EVENT):
            at = frame.index(_OP) + 6
            lane = self._under_way.get(frame[at : frame.index(b'"', at)])
            if lane is not None:
                self._last_event = frame
                self.latencies.append(time.perf_counter() - lane.started)
                lane.seen = True
                if lane.answered:
                    self._complete(lane)
                return
        elif frame.startswith(_PASSED_OVER):
            return
        self._fail(f"the second device got {_type_and_code(frame)}")

    def _complete(self, lane: _Lane) -> None:
        chat = lane.chat
        del self._under_way[lane.op]
        chat.version += 1
        chat.op = lane.op
        if time.perf_counter() < self._until:
            self._next(lane)
        elif not self._under_way and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(BenchFailed(f"{self._name}: {why}"))

    def _check_last(self) -> None:
        """The figures count only if the drafts really arrived: the last one is compared whole."""
        payload = json.loads(self._last_event)["payload"]
        number = int(payload["op"].rpartition("-")[2])
        if payload["content"] != json.loads(self._drafts.content(number)):
            raise BenchFailed(f"{self._name}: the second device got another draft than was sent")


async def signed_in(url: str, name: str) -> Link:
    """A link that has said `auth` and heard `ready`."""
    link = await Link.open(url)
    link.send(b'{"type":"auth","id":"auth","payload":{"token":"dev:%b","protocol":1}}' % name.encode())
    answer = await link.next_frame(b'{"type":"ready"', b'{"type":"error"')
    if not answer.startswith(b'{"type":"ready"'):
        raise BenchFailed(f"{name} could not sign in: {_type_and_code(answer)}")
    return link


def _type_and_code(frame: bytes) -> str:
    read = json.loads(frame)
    payload = read.get("payload", {})
    details = [str(payload[key]) for key in ("code", "reason", "message") if key in payload]
    return f"{read.get('type')} {' '.join(details)}".rstrip()
