"""(k) First messages and messages that reach Directus each second, beside what a bare loop creates in the same Directus."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from bench.cores import Cores, cpu_meter
from bench.directus_home import Home, Person
from bench.drafts import Drafts
from bench.editing import BenchFailed
from bench.figures import percentile, spread
from bench.link import Link
from bench.pair import type_and_code
from bench.plan import Plan
from bench.raw_directus import RawDirectus
from bench.served import Served
from bench.table import Row

_CALLS = 2
"""Writes that the sidecar has under way at once, and so the bare loop."""
_HEARD = ("websocket", "notices")
"""How changes made in Directus are heard. The first is what a deployment has unless it is told otherwise, and has the goal."""
_PATIENCE = 60.0
_UPDATE, _ERROR = b'{"type":"message_update"', b'{"type":"error"'


@dataclass(slots=True)
class _Rounds:
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    directus: list[float] = field(default_factory=list)
    """Seconds of Directus' CPU time for each message."""


_Both = dict[bool, _Rounds]
"""Of first messages (True) and of messages."""


def _both() -> _Both:
    return {True: _Rounds(), False: _Rounds()}


class _Writer:
    """A person with several messages under way, each in a chat of its own."""

    def __init__(self, link: Link, drafts: Drafts, lanes: int) -> None:
        self._link = link
        self._drafts = drafts
        self._lanes = lanes
        self._name = secrets.token_hex(6).encode()
        """An id is one person's for good, over restarts of the server."""
        self._number = 0
        self._began: dict[str, tuple[int, float]] = {}
        """By chat: its lane, and when its message was sent."""
        self._chats = [self._new_chat() for _ in range(lanes)]
        self._took: list[float] = []
        self._until = 0.0
        self._first = True
        self._done: asyncio.Future[None] | None = None
        link.on_frame, link.on_closed = self._take, self._fail

    @staticmethod
    def _new_chat() -> str:
        return secrets.token_hex(16)

    async def write(self, until: float, took: list[float], *, first: bool) -> None:
        """Sends until then, and waits for what is under way. `first`: each begins a chat, else they go on in the last ones."""
        self._took, self._until, self._first = took, until, first
        self._done = asyncio.get_running_loop().create_future()
        for lane in range(self._lanes):
            self._send(lane)
        async with asyncio.timeout(until - time.perf_counter() + _PATIENCE):
            await self._done

    def _send(self, lane: int) -> None:
        if self._first:
            self._chats[lane] = self._new_chat()
        chat = self._chats[lane]
        self._number += 1
        self._began[chat] = lane, time.perf_counter()
        self._link.send(
            b'{"type":"message_send","id":"%b-%d","payload":{"%b":"%b","clientMessageId":"m-%b-%d","content":%b}}'
            % (
                self._name,
                self._number,
                b"tempChatId" if self._first else b"chatId",
                chat.encode(),
                self._name,
                self._number,
                self._drafts.content(self._number),
            )
        )

    def _take(self, frame: bytes) -> None:
        if frame.startswith(_ERROR):
            self._fail(type_and_code(frame))
        elif frame.startswith(_UPDATE):
            payload = orjson.loads(frame)["payload"]
            chat = payload["chatId"].rpartition("_")[2]  # before it stands whose it is
            lane, began = self._began.get(chat, (-1, 0.0))
            if lane < 0 or payload["status"] != "delivered":
                self._fail(f"{payload['status']}, of chat {payload['chatId']}")
                return
            now = time.perf_counter()
            self._took.append(now - began)
            del self._began[chat]
            if now < self._until:
                self._send(lane)
            elif not self._began and self._done is not None and not self._done.done():
                self._done.set_result(None)

    def _fail(self, why: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(BenchFailed(f"a message did not reach Directus: {why}"))


async def measure(plan: Plan, folder: Path, cores: Cores, home: Home) -> list[Row]:
    """The rows of messages. The sidecar is started for each round: the bare loop has Directus to itself, with nobody who listens."""
    people, meter = await home.people(plan.directus_people), cpu_meter(home.server.pid)
    found: dict[str, _Both] = {each: _both() for each in (*_HEARD, "bare")}

    async def ours(changes: str, seconds: float, into: _Both) -> None:
        with home.sidecar(folder / f"messages-{changes}", cores.server, changes=changes) as served:
            await _write(plan, served, people, seconds, into, meter)

    for changes in _HEARD:
        await ours(changes, plan.directus_seconds / 4, _both())
    limit = await RawDirectus.like(home, _CALLS)

    async def bare(seconds: float, into: _Both) -> None:
        for first, create in ((True, limit.first_messages), (False, limit.messages)):
            await _create(create, seconds, into[first], meter)

    await bare(plan.directus_seconds / 4, _both())
    for number in range(plan.directus_rounds):
        for kind in found if number % 2 == 0 else reversed(found):
            if kind == "bare":
                await bare(plan.directus_seconds, found[kind])
            else:
                await ours(kind, plan.directus_seconds, found[kind])
    return [
        row
        for changes in _HEARD
        for first in (True, False)
        for row in _rows(plan, first, changes, found[changes][first], found["bare"][first])
    ]


async def _write(
    plan: Plan,
    served: Served,
    people: Sequence[Person],
    seconds: float,
    into: _Both,
    meter: Callable[[], float],
) -> None:
    drafts = Drafts()
    links = await asyncio.gather(*(person.sign_in(served.url) for person in people))
    try:
        writers = [_Writer(link, drafts, plan.directus_chats) for link in links]
        for first in (True, False):
            used, began, took = meter(), time.perf_counter(), list[float]()
            await asyncio.gather(*(each.write(began + seconds, took, first=first) for each in writers))
            rounds = into[first]
            rounds.rate.append(len(took) / (time.perf_counter() - began))
            rounds.p50.append(percentile(took, 0.5))
            rounds.p99.append(percentile(took, 0.99))
            rounds.directus.append((meter() - used) / len(took))
    finally:
        for link in links:
            link.on_closed = lambda _: None
        await asyncio.gather(*(link.close() for link in links))


async def _create(
    create: Callable[[float], Awaitable[float]], seconds: float, into: _Rounds, meter: Callable[[], float]
) -> None:
    used, began = meter(), time.perf_counter()
    rate = await create(seconds)
    into.rate.append(rate)
    into.directus.append((meter() - used) / (rate * (time.perf_counter() - began)))


def _rows(plan: Plan, first: bool, changes: str, found: _Rounds, raw: _Rounds) -> list[Row]:
    what = f"{plan.directus_people * plan.directus_chats} under way: {'first messages' if first else 'messages'}"
    judged = changes == _HEARD[0]
    if not judged:
        what = f"{what} with changes: {changes}"
    goal = plan.goals.over_raw_directus if judged else None
    times = [f"{spread([each * 1e3 for each in values]):.0f}" for values in (found.p50, found.p99)]
    beside = "per second that reach Directus, beside rows created in the same Directus by a bare loop"
    return [
        Row.compared("k", f"{what} {beside}", found.rate, raw.rate, goal),
        Row("k", f"{what}: p50 / p99 until delivered, ms", " / ".join(times)),
        Row.compared(
            "k",
            f"{what}: Directus' CPU for each, µs",
            [each * 1e6 for each in found.directus],
            [each * 1e6 for each in raw.directus],
        ),
    ]
