"""One plugin's work on the outbox: deliveries in order per chat, its pause and its tries (semantics §5)."""

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
from sidecar.outbox_shards import Shards
from sidecar.parts import Parts
from sidecar.slots.cache import Lease

_TRIES = 8
_CHATS = 100
"""Chats at once, per plugin."""
_BATCH = 500
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


class PluginPosition:
    """One plugin's work on the shards that this process holds."""

    def __init__(self, parts: Parts, listener: Listener, shards: Shards) -> None:
        self._parts = parts
        self._delivery = Delivery(parts, listener)
        self._name = listener.name
        self._shards = shards
        self._busy: dict[tuple[UserHash, ChatId | None], tuple[str, asyncio.Task[None]]] = {}
        self._results: dict[str, _Results] = {}
        self._not_before: dict[str, float] = {}
        self._paused_until = 0.0
        self._pauses = 0
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()
        self._stopped = False
        self.looks = 0
        """How often all shards of this process were looked at."""

    def wake(self, shard: str | None = None) -> None:
        """There may be something to deliver on this shard (None: on any that this process holds)."""
        self._wanted.update((shard,) if shard is not None else self._shards)
        self._wake.set()

    async def finish(self) -> None:
        """Takes up nothing more; returns when what is under way is finished, and settled."""
        self._stopped = True
        while not self.idle:
            self._wake.set()
            if self._busy:
                await asyncio.wait([task for _, task in self._busy.values()])
            else:
                await asyncio.sleep(0.02)

    def at_work(self, shard: str) -> bool:
        """Whether anything of this shard is under way or waits to be settled."""
        return shard in self._results or any(each == shard for each, _ in self._busy.values())

    async def work(self) -> None:
        """Runs for good."""
        loop = asyncio.get_running_loop()
        due, over = 0.0, True
        try:
            while True:
                self._wake.clear()
                if over or loop.time() >= due:  # whatever came by another process, or became due
                    due = loop.time() + _POLL_SECONDS
                    self._wanted.update(self._shards)
                try:
                    await self._settle()
                    if loop.time() >= self._paused_until and not self._stopped:
                        wanted, self._wanted = self._wanted, set()
                        everything = wanted.issuperset(self._shards)
                        await self._start(wanted)
                        self.looks += everything
                except Unavailable as error:
                    log.warning("outbox_waits", plugin=self._name, part=error.part, reason=error.reason)
                    await asyncio.sleep(1.0)
                over = False
                try:
                    async with asyncio.timeout_at(due):
                        await self._wake.wait()
                except TimeoutError:
                    over = True  # though the clock, read again, may not have come quite that far
        finally:
            for _, task in self._busy.values():
                task.cancel()

    async def _settle(self) -> None:
        """All shards at once, so that they share a round trip. Raises `Unavailable` when one could not be told; it is told again."""
        results, self._results = self._results, {}
        told = [(name, lease, results[name]) for name in results if (lease := self._shards.lease(name)) is not None]
        # Of a lost shard nothing is said: whoever works it now delivers again.
        outbox = self._parts.cache.outbox
        answers = await asyncio.gather(
            *(outbox.settle(lease, self._name, each.done, each.failed, each.parked) for _, lease, each in told),
            return_exceptions=True,
        )
        for (name, _, each), answer in zip(told, answers, strict=True):
            if isinstance(answer, LeaseLost):
                self._shards.drop(name)
            elif isinstance(answer, Unavailable):
                if name in self._results:
                    each.add(self._results[name])
                self._results[name] = each
        _raise_first(answers)

    async def _start(self, wanted: set[str]) -> None:
        held = [lease for lease in self._shards.leases if lease.name in wanted]
        outbox = self._parts.cache.outbox
        answers = await asyncio.gather(
            *(outbox.pending(lease, self._name, _BATCH) for lease in held), return_exceptions=True
        )
        for lease, answer in zip(held, answers, strict=True):
            if isinstance(answer, LeaseLost):
                self._shards.drop(lease.name)
            elif not isinstance(answer, BaseException) and not self._start_shard(lease, answer):
                self._wanted.update(later.name for later in held)  # there was no room for all of them
                break
        _raise_first(answers)

    def _start_shard(self, lease: Lease, entries: Sequence[Entry]) -> bool:
        """Sets the deliveries of these entries going; False when there is no room for more, or the plugin pauses."""
        now = asyncio.get_running_loop().time()
        # Whatever became ready while the entries were read is not settled yet, and would be delivered twice.
        name = lease.name
        settling = self._results[name].entries if name in self._results else set()
        chats: dict[tuple[UserHash, ChatId | None], list[Entry]] = {}
        # What came before the end of a person is delivered before it: later it would be written behind the erasure.
        erasing = {entry.user for entry in entries if entry.kind == "erased"}
        for entry in entries:
            chats.setdefault((entry.user, None if entry.user in erasing else entry.chat_id), []).append(entry)
        for chat, waiting in chats.items():
            if len(self._busy) >= _CHATS or now < self._paused_until:
                return False
            if settling and not settling.isdisjoint(entry.id for entry in waiting):
                continue
            if self._is_busy(*chat) or self._not_before.get(waiting[0].id, 0.0) > now:
                continue
            task = asyncio.create_task(self._chat(lease, waiting))
            self._busy[chat] = name, task
            task.add_done_callback(lambda _, chat=chat: self._done(chat))  # type: ignore[misc]
        return True

    def _is_busy(self, user: UserHash, chat_id: ChatId | None) -> bool:
        if chat_id is None:  # everything of the person, one after the other
            return any(busy == user for busy, _ in self._busy)
        return (user, chat_id) in self._busy or (user, None) in self._busy

    def _done(self, chat: tuple[UserHash, ChatId | None]) -> None:
        shard, _ = self._busy.pop(chat)
        self.wake(shard)

    async def _chat(self, lease: Lease, entries: Sequence[Entry]) -> None:
        """The entries of one chat, one after the other, until one does not go through, or others may be at work on them."""
        counts = self._parts.metrics.delivered
        for place, entry in enumerate(entries):
            if self._stopped:
                return
            error: Exception | None = None
            try:
                await self._delivery.deliver(entry, lambda: self._shards.holds(lease))
            except Exception as failure:  # noqa: BLE001  # whatever a plugin raises is a try
                error = failure
            if not self._shards.holds(lease):
                return  # whatever came of it: whoever works the shard now does it again, and says what becomes of it
            match error:
                case None:
                    self._pauses = 0
                    self._not_before.pop(entry.id, None)
                    counts.labels(self._name, "delivered").inc()
                    self._result(lease.name).done.append(entry.id)
                    continue
                case LeaseLost():
                    pass  # and renewed in the last moment: it is read, and begun, anew
                case Unavailable():
                    counts.labels(self._name, "unavailable").inc()
                    self._pause(error)
                case Exception() if isinstance(error, Unstorable) or entry.tries + 1 >= _TRIES:
                    await self._park(lease.name, entries[place:], entry)
                case Exception():
                    self._failed(lease.name, entry, error)
            return

    def _failed(self, shard: str, entry: Entry, error: Exception) -> None:
        """A try more; the next one waits."""
        self._parts.metrics.delivered.labels(self._name, "failed").inc()
        log.warning(
            "delivery_failed", plugin=self._name, kind=entry.kind, tries=entry.tries + 1, error=type(error).__name__
        )
        wait = min(_LONGEST_PAUSE, 0.25 * 2**entry.tries) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        self._not_before[entry.id] = asyncio.get_running_loop().time() + wait
        self._result(shard).failed.append(entry.id)

    def abandon(self, shard: str) -> None:
        """Breaks off what is under way of this shard."""
        self._results.pop(shard, None)
        for name, task in self._busy.values():
            if name == shard:
                task.cancel()

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
        log.warning("plugin_paused", plugin=self._name, part=error.part, reason=error.reason, seconds=round(wait, 2))

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waits to be settled."""
        return not self._busy and not self._results


def _raise_first(answers: Sequence[object]) -> None:
    """Raises what is neither an answer nor a lost lease; an outage last, behind what is nobody's fault but ours."""
    failures = [each for each in answers if isinstance(each, BaseException) and not isinstance(each, LeaseLost)]
    for failure in sorted(failures, key=lambda each: isinstance(each, Unavailable)):
        raise failure
