"""Two devices of one person, whatever they speak: one edits, the other receives.

An edit is complete when the first device has its answer and the second has the draft. Every complete edit is one more of
`latencies`: the seconds until the second device had it.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import cycle

_PATIENCE = 60.0
"""Seconds beyond the round's end; at a pace the server may be far behind by then."""


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


class Lane:
    """One edit at a time."""

    __slots__ = ("answered", "chat", "chats", "due", "op", "seen", "started")

    def __init__(self, chats: Iterator[Chat], first: Chat) -> None:
        self.chats = chats
        self.chat = first
        self.op = b""
        self.answered = False
        self.seen = False
        self.started = 0.0
        self.due = 0.0


class Editing(ABC):
    """Both devices, and how they take turns."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        self._under_way: dict[bytes, Lane] = {}
        self._until = 0.0
        self._pace: float | None = None
        self._done: asyncio.Future[None] | None = None
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        """At a pace: the seconds by which this end, not the server, was late to send."""

    @abstractmethod
    async def begin(self, chat: Chat) -> None:
        """Makes the chat with its first draft."""

    @abstractmethod
    async def close(self) -> None:
        """Both devices leave."""

    @abstractmethod
    def _send(self, lane: Lane) -> None:
        """Sends the lane's next edit; `_answered` and `_seen` are called in their time."""

    @abstractmethod
    def _check_last(self) -> None:
        """Raises `BenchFailed` unless the last edit arrived whole: only then do the figures count."""

    async def edit(self, chats: Sequence[Chat], seconds: float, lanes: int = 1) -> None:
        """Edits as fast as it is answered, going round these chats; `lanes` edits are under way at once, each of other chats."""
        self._start(time.perf_counter() + seconds, None)
        for number in range(min(lanes, len(chats))):
            mine = chats[number::lanes]
            self._next(Lane(cycle(mine), mine[0]))
        await self._finish()

    async def keep_pace(self, chat: Chat, first: float, pace: float, until: float) -> None:
        """An edit each `pace` seconds from `first`, on the clock of `time.perf_counter`, however long the answers take.

        The latencies are counted from when an edit was due: one that had to wait for the answer to the edit before it has
        waited all the same.
        """
        self._start(until, pace)
        lane = Lane(cycle([chat]), chat)
        lane.due = first
        self._wait(lane)
        await self._finish()

    def _start(self, until: float, pace: float | None) -> None:
        self.latencies, self.lateness = [], []
        self._until, self._pace = until, pace
        self._done = asyncio.get_running_loop().create_future()

    async def _finish(self) -> None:
        if self._done is not None:
            try:
                async with asyncio.timeout(self._until - time.perf_counter() + _PATIENCE):
                    await self._done
            except TimeoutError:
                raise BenchFailed(f"{self._name}: an edit was never complete") from None
        self._check_last()

    def _next_op(self) -> bytes:
        self._count += 1
        return b"%b-%d" % (self._name.encode(), self._count)

    def _next(self, lane: Lane) -> None:
        chat = lane.chat = next(lane.chats)
        lane.op = self._next_op()
        lane.answered = lane.seen = False
        chat.number = self._count
        self._under_way[lane.op] = lane
        lane.started = time.perf_counter()
        self._send(lane)

    def _wait(self, lane: Lane) -> None:
        asyncio.get_running_loop().call_later(max(0.0, lane.due - time.perf_counter()), self._on_time, lane)

    def _on_time(self, lane: Lane) -> None:
        due, now = lane.due, time.perf_counter()
        self.lateness.append(max(0.0, now - due))
        self._next(lane)
        lane.started = min(due, now)  # the loop's timers are of whole milliseconds, and may be early by half of one

    def _answered(self, lane: Lane) -> None:
        lane.answered = True
        if lane.seen:
            self._complete(lane)

    def _seen(self, lane: Lane) -> None:
        self.latencies.append(time.perf_counter() - lane.started)
        lane.seen = True
        if lane.answered:
            self._complete(lane)

    def _complete(self, lane: Lane) -> None:
        chat = lane.chat
        del self._under_way[lane.op]
        chat.version += 1
        chat.op = lane.op
        if self._pace is not None:
            self._complete_at_pace(lane, self._pace)
        elif time.perf_counter() < self._until:
            self._next(lane)
        elif not self._under_way:
            self._end()

    def _complete_at_pace(self, lane: Lane, pace: float) -> None:
        lane.due += pace
        if lane.due >= self._until:
            self._end()
        elif lane.due > time.perf_counter():
            self._wait(lane)
        else:
            due = lane.due
            self._next(lane)
            lane.started = due

    def _end(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(BenchFailed(f"{self._name}: {why}"))
