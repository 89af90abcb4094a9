"""The outbox at work: every plugin is told what was accepted, at least once, in order per chat (semantics §5).

One process works a shard at a time, under a lease with a fence. Each plugin has its own position, pause and tries.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from sidecar.changes import Entry
from sidecar.delivery import Delivery
from sidecar.errors import LeaseLost, Unavailable, Unstorable
from sidecar.ids import ChatId, UserHash
from sidecar.listeners import Listener
from sidecar.parts import Parts
from sidecar.slots.cache import Lease

_TRIES = 8
_CHATS = 100
"""Chats at once, per plugin."""
_BATCH = 500
_LEASE_SECONDS = 8.0
_POLL_SECONDS = 0.25
"""How often drafts that have become due are looked for."""
_LONGEST_PAUSE = 60.0

log = structlog.get_logger("sidecar.outbox")


@dataclass(slots=True)
class _Results:
    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)

    @property
    def entries(self) -> set[str]:
        return {*self.done, *self.failed, *self.parked}

    def add(self, later: _Results) -> None:
        self.done += later.done
        self.failed += later.failed
        self.parked += later.parked


class _Position:
    """One plugin's work on the shards that this process holds."""

    def __init__(self, parts: Parts, listener: Listener, leases: dict[str, Lease]) -> None:
        self._parts = parts
        self._delivery = Delivery(parts, listener)
        self._name = listener.name
        self._leases = leases
        self._busy: dict[tuple[UserHash, ChatId | None], asyncio.Task[None]] = {}
        self._results: dict[str, _Results] = {}
        self._not_before: dict[str, float] = {}
        self._paused_until = 0.0
        self._pauses = 0
        self.wake = asyncio.Event()

    async def work(self) -> None:
        """Runs for good."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self.wake.clear()
                try:
                    await self._settle()
                    if loop.time() >= self._paused_until:
                        await self._start()
                except Unavailable as error:
                    log.warning("outbox_waits", plugin=self._name, part=error.part)
                    await asyncio.sleep(1.0)
                try:
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self.wake.wait()
                except TimeoutError:
                    pass
        finally:
            for task in self._busy.values():
                task.cancel()

    async def _settle(self) -> None:
        for name in list(self._results):
            lease = self._leases.get(name)
            results = self._results.pop(name)
            if lease is None:
                continue  # whoever works the shard now delivers again
            try:
                await self._parts.cache.outbox.settle(lease, self._name, results.done, results.failed, results.parked)
            except LeaseLost:
                self._leases.pop(name, None)
            except Unavailable:
                if name in self._results:
                    results.add(self._results[name])
                self._results[name] = results
                raise

    async def _start(self) -> None:
        now = asyncio.get_running_loop().time()
        for name, lease in list(self._leases.items()):
            try:
                entries = await self._parts.cache.outbox.pending(lease, self._name, _BATCH)
            except LeaseLost:
                self._leases.pop(name, None)
                continue
            # Whatever became ready while the entries were read is not settled yet, and would be delivered twice.
            settling = self._results[name].entries if name in self._results else set()
            chats: dict[tuple[UserHash, ChatId | None], list[Entry]] = {}
            # What came before the end of a person is delivered before it: later it would be written behind the erasure.
            erasing = {entry.user for entry in entries if entry.kind == "erased"}
            for entry in entries:
                chats.setdefault((entry.user, None if entry.user in erasing else entry.chat_id), []).append(entry)
            for chat, waiting in chats.items():
                if len(self._busy) >= _CHATS or now < self._paused_until:
                    return
                if settling and not settling.isdisjoint(entry.id for entry in waiting):
                    continue
                if self._is_busy(*chat) or self._not_before.get(waiting[0].id, 0.0) > now:
                    continue
                task = asyncio.create_task(self._chat(name, waiting))
                self._busy[chat] = task
                task.add_done_callback(lambda _, chat=chat: self._done(chat))  # type: ignore[misc]

    def _is_busy(self, user: UserHash, chat_id: ChatId | None) -> bool:
        if chat_id is None:  # everything of the person, one after the other
            return any(busy == user for busy, _ in self._busy)
        return (user, chat_id) in self._busy or (user, None) in self._busy

    def _done(self, chat: tuple[UserHash, ChatId | None]) -> None:
        self._busy.pop(chat, None)
        self.wake.set()

    async def _chat(self, shard: str, entries: Sequence[Entry]) -> None:
        """The entries of one chat, one after the other, until one does not go through."""
        counts = self._parts.metrics.delivered
        for place, entry in enumerate(entries):
            if shard not in self._leases:
                return
            try:
                await self._delivery.deliver(entry)
            except Unavailable as error:
                counts.labels(self._name, "unavailable").inc()
                self._pause(error)
                return
            except Unstorable:
                await self._park(shard, entries[place:], entry)
                return
            except Exception as error:  # noqa: BLE001  # whatever a plugin raises is a try
                if entry.tries + 1 >= _TRIES:
                    await self._park(shard, entries[place:], entry)
                    return
                counts.labels(self._name, "failed").inc()
                log.warning(
                    "delivery_failed",
                    plugin=self._name,
                    kind=entry.kind,
                    tries=entry.tries + 1,
                    error=type(error).__name__,
                )
                wait = min(_LONGEST_PAUSE, 0.25 * 2**entry.tries) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
                self._not_before[entry.id] = asyncio.get_running_loop().time() + wait
                self._result(shard).failed.append(entry.id)
                return
            self._pauses = 0
            self._not_before.pop(entry.id, None)
            counts.labels(self._name, "delivered").inc()
            self._result(shard).done.append(entry.id)

    def _result(self, shard: str) -> _Results:
        return self._results.setdefault(shard, _Results())

    async def _park(self, shard: str, entries: Sequence[Entry], first: Entry) -> None:
        """A dead letter, and with it everything later of its chat."""
        self._parts.metrics.delivered.labels(self._name, "parked").inc()
        log.error("parked", plugin=self._name, kind=first.kind, entry=first.id, chat=first.chat_id)
        self._result(shard).parked.append(first.id)
        self._not_before.pop(first.id, None)
        for entry in entries:
            try:
                await self._delivery.park(entry)
            except Unavailable:
                return  # the status stays `sent`; the entry is parked all the same

    def _pause(self, error: Unavailable) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._paused_until:
            return  # the same outage, met by another chat that was under way
        self._pauses += 1
        wait = min(_LONGEST_PAUSE, 0.25 * 2 ** min(self._pauses, 10))
        wait = max(wait * random.uniform(0.5, 1.0), error.retry_after or 0.0)  # noqa: S311  # jitter
        self._paused_until = now + wait
        log.warning("plugin_paused", plugin=self._name, part=error.part, seconds=round(wait, 2))

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waits to be settled."""
        return not self._busy and not self._results


class OutboxWorker:
    """An async context manager; while it is entered this process takes its part in working the outbox."""

    def __init__(self, parts: Parts, listeners: Sequence[Listener], holder: str) -> None:
        self._parts = parts
        self._holder = holder
        self._leases: dict[str, Lease] = {}
        self._positions = [_Position(parts, listener, self._leases) for listener in listeners]
        self._names = [listener.name for listener in listeners]
        self._tasks: list[asyncio.Task[None]] = []
        self._joined = False

    async def __aenter__(self) -> OutboxWorker:
        try:
            await self._take()  # before anything is accepted, so that the first change has listeners
        except Unavailable as error:
            log.warning("outbox_waits", part=error.part)
        self._tasks = [asyncio.create_task(self._hold())]
        self._tasks += [asyncio.create_task(position.work()) for position in self._positions]
        self._tasks.append(asyncio.create_task(self._measure()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lease in list(self._leases.values()):
            try:
                await self._parts.cache.leases.leave(lease)
            except Unavailable:
                break  # it ends by itself

    def wake(self) -> None:
        """There may be something to deliver."""
        for position in self._positions:
            position.wake.set()

    async def flush(self, seconds: float) -> None:
        """What is due at the latest is due now; returns when it is delivered, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._parts.cache.outbox.hurry()
                while True:
                    self.wake()
                    await asyncio.sleep(0.02)
                    positions = await self._parts.cache.outbox.positions()
                    waiting = sum(positions[name].pending for name in self._names if name in positions)
                    if not waiting and all(position.idle for position in self._positions):
                        return
        except (TimeoutError, Unavailable):
            log.warning("outbox_not_empty")  # it stays in the cache, for the next start or another process

    async def _take(self) -> None:
        if not self._joined:
            await self._parts.cache.outbox.join(self._names)
            self._joined = True
        for shard in range(self._parts.cache.outbox.shards):
            name = f"outbox:{shard}"
            lease = await self._parts.cache.leases.take(name, self._holder, _LEASE_SECONDS)
            if lease is None:
                self._leases.pop(name, None)
            elif self._leases.get(name) != lease:
                self._leases[name] = lease
                self.wake()

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(_LEASE_SECONDS / 4)
            try:
                await self._take()
            except Unavailable as error:
                log.warning("outbox_waits", part=error.part)

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
