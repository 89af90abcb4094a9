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

    def __init__(self, parts: Parts, listener: Listener, leases: dict[str, Lease]) -> None:
        self._parts = parts
        self._delivery = Delivery(parts, listener)
        self._name = listener.name
        self._leases = leases
        self._busy: dict[tuple[UserHash, ChatId | None], tuple[str, asyncio.Task[None]]] = {}
        self._results: dict[str, _Results] = {}
        self._not_before: dict[str, float] = {}
        self._paused_until = 0.0
        self._pauses = 0
        self._wanted: set[str] = set()
        self._wake = asyncio.Event()
        self.looks = 0
        """How often all shards of this process were looked at."""

    def wake(self, shard: str | None = None) -> None:
        """There may be something to deliver on this shard (None: on any that this process holds)."""
        self._wanted.update((shard,) if shard is not None else self._leases)
        self._wake.set()

    def at_work(self, shard: str) -> bool:
        """Whether anything of this shard is under way or waits to be settled."""
        return shard in self._results or any(each == shard for each, _ in self._busy.values())

    async def work(self) -> None:
        """Runs for good."""
        loop = asyncio.get_running_loop()
        looked = -_POLL_SECONDS
        try:
            while True:
                self._wake.clear()
                if loop.time() - looked >= _POLL_SECONDS:  # whatever came by another process, or became due
                    looked = loop.time()
                    self._wanted.update(self._leases)
                try:
                    await self._settle()
                    if loop.time() >= self._paused_until:
                        wanted, self._wanted = self._wanted, set()
                        everything = wanted >= self._leases.keys()
                        await self._start(wanted)
                        self.looks += everything
                except Unavailable as error:
                    log.warning("outbox_waits", plugin=self._name, part=error.part)
                    await asyncio.sleep(1.0)
                try:
                    async with asyncio.timeout(max(0.0, looked + _POLL_SECONDS - loop.time())):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            for _, task in self._busy.values():
                task.cancel()

    async def _settle(self) -> None:
        """All shards at once, so that they share a round trip. Raises `Unavailable` when one could not be told; it is told again."""
        results, self._results = self._results, {}
        told = [(name, lease, results[name]) for name in results if (lease := self._leases.get(name)) is not None]
        # Of a lost shard nothing is said: whoever works it now delivers again.
        outbox = self._parts.cache.outbox
        answers = await asyncio.gather(
            *(outbox.settle(lease, self._name, each.done, each.failed, each.parked) for _, lease, each in told),
            return_exceptions=True,
        )
        for (name, _, each), answer in zip(told, answers, strict=True):
            if isinstance(answer, LeaseLost):
                self._leases.pop(name, None)
            elif isinstance(answer, Unavailable):
                if name in self._results:
                    each.add(self._results[name])
                self._results[name] = each
        _raise_first(answers)

    async def _start(self, wanted: set[str]) -> None:
        held = [(name, lease) for name, lease in self._leases.items() if name in wanted]
        outbox = self._parts.cache.outbox
        answers = await asyncio.gather(
            *(outbox.pending(lease, self._name, _BATCH) for _, lease in held), return_exceptions=True
        )
        for (name, _), answer in zip(held, answers, strict=True):
            if isinstance(answer, LeaseLost):
                self._leases.pop(name, None)
            elif not isinstance(answer, BaseException) and not self._start_shard(name, answer):
                self._wanted.update(later for later, _ in held)  # there was no room for all of them
                break
        _raise_first(answers)

    def _start_shard(self, name: str, entries: Sequence[Entry]) -> bool:
        """Sets the deliveries of these entries going; False when there is no room for more, or the plugin pauses."""
        now = asyncio.get_running_loop().time()
        # Whatever became ready while the entries were read is not settled yet, and would be delivered twice.
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
            task = asyncio.create_task(self._chat(name, waiting))
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


def _raise_first(answers: Sequence[object]) -> None:
    """Raises what is neither an answer nor a lost lease; an outage last, behind what is nobody's fault but ours."""
    failures = [each for each in answers if isinstance(each, BaseException) and not isinstance(each, LeaseLost)]
    for failure in sorted(failures, key=lambda each: isinstance(each, Unavailable)):
        raise failure
