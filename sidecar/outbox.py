"""The outbox at work: every plugin is told what was accepted, at least once, in order per chat (semantics §5).

One process works a shard at a time, under a lease with a fence. Each plugin has its own position, pause and tries.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import structlog

from sidecar.errors import Unavailable
from sidecar.ids import UserHash
from sidecar.listeners import Listener
from sidecar.outbox_position import PluginPosition
from sidecar.outbox_shards import Shards
from sidecar.parts import Parts
from sidecar.slots.cache import Lease

_LEASE_SECONDS = 6.0
"""With a look every quarter of it, another process goes on with the work of a dead one within eight seconds."""
PROCESSES = "outbox_workers"
"""The lease whose holders are the processes that live, where several share a cache; it ends with a dead one's other leases."""
_MOSTPROCESSES = 1000
"""That share the work."""
_ANSWER_SECONDS = 1.0
"""How long an answer about leases is waited for, whatever else a call to the cache may take: others have to be renewed."""
_WATCH_SECONDS = 0.25
"""How often it is looked for leases that ended."""

T = TypeVar("T")

log = structlog.get_logger("sidecar.outbox")


async def _soon(question: Awaitable[T]) -> T:
    """The answer, or `Unavailable`."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await question
    except TimeoutError:
        raise Unavailable("cache", "it did not answer in time") from None


class OutboxWorker:
    """An async context manager; while it is entered this process takes its part in working the outbox.

    The shards are shared out evenly among the processes that live: each takes its part, and gives back what is over it once
    nothing of that shard is under way.
    """

    def __init__(self, parts: Parts, listeners: Sequence[Listener], holder: str) -> None:
        self._parts = parts
        self.holder = holder
        """What this process is called among the others."""
        self._shards = Shards()
        self._positions = [PluginPosition(parts, listener, self._shards) for listener in listeners]
        self._names = [listener.name for listener in listeners]
        self._tasks: list[asyncio.Task[None]] = []
        self._joined = False
        self._workers = 1
        """How many processes live, as it was counted last."""
        self._leaving = False
        self._fence = 0

    async def __aenter__(self) -> OutboxWorker:
        try:
            await self._take()  # before anything is accepted, so that the first change has listeners
        except Unavailable as error:
            log.warning("outbox_waits", part=error.part, reason=error.reason)
        self._tasks = [asyncio.create_task(self._hold()), asyncio.create_task(self._watch())]
        self._tasks += [asyncio.create_task(position.work()) for position in self._positions]
        self._tasks.append(asyncio.create_task(self._measure()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._leave()

    def wake(self, user: UserHash | None = None) -> None:
        """There may be something to deliver, of this person (None: of anybody)."""
        shard = f"outbox:{self._parts.cache.outbox.shard_of(user)}" if user is not None else None
        if shard is None or shard in self._shards:
            for position in self._positions:
                position.wake(shard)

    async def hand_over(self, seconds: float) -> None:
        """Other processes go on: takes up nothing more, finishes what is under way, and leaves the rest to them at once."""
        self._leaving = True
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(position.finish() for position in self._positions))
                await self._leave()
        except (TimeoutError, Unavailable):
            log.warning("outbox_left_in_the_middle")  # others do again what was under way, once the leases have ended

    async def flush(self, seconds: float) -> None:
        """What is due at the latest is due now; returns when it is delivered, or after so many seconds.

        Where other processes live they go on with it instead: there is new work all the time, and would be waited for in vain.
        """
        try:
            async with asyncio.timeout(seconds):
                if await self._others_live():
                    await self.hand_over(seconds)
                    return
                await self._parts.cache.outbox.hurry()
                await self._take(everything=True)  # the shards of those who have just gone, whose part nobody has yet
                # What is due is counted as pending once its shard was looked at; a look under way may have been too early.
                enough = [position.looks + 2 for position in self._positions]
                while True:
                    self.wake()
                    await asyncio.sleep(0.02)
                    if any(each.looks < looks for each, looks in zip(self._positions, enough, strict=True)):
                        continue
                    positions = await self._parts.cache.outbox.positions()
                    waiting = sum(positions[name].pending for name in self._names if name in positions)
                    if not waiting and all(position.idle for position in self._positions):
                        return
        except (TimeoutError, Unavailable):
            log.warning("outbox_not_empty")  # it stays in the cache, for the next start or another process

    async def _others_live(self) -> bool:
        """Whether there are other processes; this one is not counted among them any more."""
        if self._parts.cache.outbox.shards == 1:
            return False
        # First this one goes: of two that end at the same time at least one sees that it is the last.
        self._leaving = True
        leases = self._parts.cache.leases
        await leases.leave(Lease(PROCESSES, self.holder, self._fence))
        return bool(await leases.held(PROCESSES))

    async def _leave(self) -> None:
        leases = self._parts.cache.leases
        own = [*self._shards.leases, Lease(PROCESSES, self.holder, self._fence)]
        for lease in own:
            self._shards.drop(lease.name)
        # Where that fails they end by themselves.
        await asyncio.gather(*(leases.leave(lease) for lease in own), return_exceptions=True)

    async def _take(self, *, everything: bool = False) -> None:
        """This process's part of the shards; `everything`: all that nobody has.

        A cache may be away in part: what can be had of it is, and then `Unavailable` is raised.
        """
        troubles: list[Unavailable] = []
        shards = self._parts.cache.outbox.shards
        names = [f"outbox:{shard}" for shard in range(shards)]
        mine = [name for name in names if name in self._shards]
        # What is held is renewed before anything else is waited for.
        held, *_ = await asyncio.gather(self._take_shards(mine, troubles), self._count(troubles), self._join(troubles))
        share = shards if everything else -(-shards // self._workers)
        # Each process begins elsewhere, so that they seldom want the same one.
        start = random.randrange(shards)  # noqa: S311
        others = [name for name in [*names[start:], *names[:start]] if name not in mine]
        missing = share - held
        while missing > 0 and others:
            tried, others = others[:missing], others[missing:]
            missing -= await self._take_shards(tried, troubles)
            if troubles:
                break  # each round may last as long as an answer is waited for; what is held has to be renewed meanwhile
        await self._give_back(-missing)
        if troubles:
            raise troubles[0]

    async def _join(self, troubles: list[Unavailable]) -> None:
        """A shard that could not be told gets the names with its first entry."""
        if not self._joined:
            try:
                await _soon(self._parts.cache.outbox.join(self._names))
                self._joined = True
            except Unavailable as error:
                troubles.append(error)

    async def _count(self, troubles: list[Unavailable]) -> None:
        """Counts the processes that live, this one among them; where they cannot be counted, there are as many as there were."""
        leases = self._parts.cache.leases
        if self._parts.cache.outbox.shards == 1:
            return
        try:
            if not self._leaving:
                place = await _soon(leases.take(PROCESSES, self.holder, _LEASE_SECONDS, _MOSTPROCESSES))
                self._fence = place.fence if place is not None else 0
            self._workers = max(1, len(await _soon(leases.held(PROCESSES))))
        except Unavailable as error:
            troubles.append(error)

    async def _take_shards(self, names: Sequence[str], troubles: list[Unavailable]) -> int:
        """How many of these are held now. What could not be asked for goes to `troubles`."""
        answers = await asyncio.gather(*(self._take_shard(name) for name in names), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, Unavailable):
                troubles.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
        return sum(answer is True for answer in answers)

    async def _take_shard(self, name: str) -> bool:
        until = time.monotonic() + _LEASE_SECONDS  # from before it is asked for: never later than the cache has it
        lease = await _soon(self._parts.cache.leases.take(name, self.holder, _LEASE_SECONDS))
        if lease is None:
            if self._shards.drop(name):
                self._abandon(name)
        elif self._shards.keep(lease, until):
            for position in self._positions:
                position.wake(name)
        return lease is not None

    def _abandon(self, name: str) -> None:
        """Others may be at work on this shard: what is under way here is broken off, and they do it again."""
        for position in self._positions:
            position.abandon(name)

    async def _give_back(self, surplus: int) -> None:
        for lease in self._shards.leases:
            if surplus <= 0:
                return
            if not any(position.at_work(lease.name) for position in self._positions):
                surplus -= 1
                self._shards.drop(lease.name)
                await self._parts.cache.leases.leave(lease)

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(_LEASE_SECONDS / 4)
            try:
                if self._leaving:
                    await self._take_shards([*self._shards], [])
                else:
                    await self._take()
            except Unavailable as error:
                log.warning("outbox_waits", part=error.part, reason=error.reason)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for name in self._shards.over():
                log.warning("outbox_lease_over", name=name)
                self._abandon(name)

    async def _measure(self) -> None:
        metrics = self._parts.metrics
        while True:
            await asyncio.sleep(2.0)
            try:
                positions = await self._parts.cache.outbox.positions()
            except Unavailable:
                continue
            now = self._parts.now()
            for name, position in positions.items():
                metrics.outbox_pending.labels(name).set(position.pending)
                metrics.outbox_parked.labels(name).set(position.parked)
                lag = (now - position.oldest).total_seconds() if position.oldest is not None else 0.0
                metrics.outbox_lag.labels(name).set(max(0.0, lag))
