"""Writes the whole state into a new generation of the journal, so that the older ones can go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from plugins.cache.journal import Journal
from plugins.cache.journal_line import Line, generation
from plugins.cache.memory_leases import MemoryLeases
from plugins.cache.memory_person import Person
from plugins.cache.memory_state import State
from sidecar import Unavailable, UserHash

_log = logging.getLogger(__name__)
_FENCES = 2**32  # more than a run gives out until its next generation
_GROWTH = 4
_RETRY = 60.0


class Compaction:
    """Begins when a generation has grown past `smallest` bytes and four times what the last compaction wrote."""

    def __init__(self, state: State, leases: MemoryLeases, journal: Journal, smallest: int) -> None:
        self._state = state
        self._leases = leases
        self._journal = journal
        self._smallest = smallest
        self._written = 0
        self._unfinished = False
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    def at_start(self) -> None:
        """All at once, before anybody is served. Raises `Unavailable`."""
        for _ in self._steps():
            pass
        self._journal.force()
        self._journal.complete()

    def look(self) -> None:
        """Begins a compaction beside the service, if it is time for one."""
        if self._task is not None and self._task.done():
            error = None if self._task.cancelled() else self._task.exception()
            if error is not None:
                _log.error("the compaction of the journal ended with %s; the older files stay", type(error).__name__)
            self._task = None
        big = self._journal.size > max(self._smallest, _GROWTH * self._written)
        if self._task is None and (big or self._unfinished) and self._state.clock() >= self._not_before:
            self._task = asyncio.get_running_loop().create_task(self._beside())

    async def stop(self) -> None:
        """Ends one that runs; the older generations stay then, and nothing is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _beside(self) -> None:
        self._not_before = self._state.clock() + _RETRY
        self._unfinished = True
        try:
            for _ in self._steps():
                await asyncio.sleep(0)
            await asyncio.to_thread(self._journal.force)
            self._journal.complete()
            self._unfinished, self._not_before = False, 0.0
        except Unavailable as error:
            _log.warning(
                "the journal could not be compacted (%s); the older files stay, it is tried again", error.reason
            )
        except OSError as error:
            _log.warning("an older journal could not be removed (%s)", error.strerror)

    def _steps(self) -> Iterator[None]:
        """One person at a time. Between two of them others may commit: their records stand in the new file already."""
        state = self._state
        self._journal.begin(generation(list(state.queues), state.entry, self._leases.fence + _FENCES, state.clock()))
        written = 0
        users = dict.fromkeys(state.persons)
        for queue in state.queues.values():
            users.update(dict.fromkeys(queue.everybody()))
        for user in users:
            line = Line()
            before = self._journal.size
            self._snapshot(line, user)
            self._journal.append(line.header(user, state.clock()), line.blobs)
            written += self._journal.size - before
            self._now_written(state.persons.get(user))
            yield
        self._written = written

    def _now_written(self, person: Person | None) -> None:
        for slot in person.chats.values() if person is not None else ():
            slot.journalled = slot.pinned

    def _snapshot(self, line: Line, user: UserHash) -> None:
        """All that must survive of this person. Clean chats need not: they are in the store."""
        line.reset()
        person = self._state.persons.get(user)
        if person is not None:
            log = person.log
            if log.epoch is not None:
                line.epoch(log.epoch, log.base, log.base_tag)
            for since, item in log.timed():
                line.item(item, since)
            for since, deleted in person.tombstones.values():
                line.tombstone(deleted, since)
            for slot in person.chats.values():
                if slot.pinned:
                    line.chat_whole(slot.chat)
            for operation, since, outcome in person.remembered():
                line.outcome(operation, outcome, since)
        entries = {}
        waiting: dict[str, list[tuple[str, int]]] = {}
        parked: dict[str, list[str]] = {}
        for name, queue in self._state.queues.items():
            for entry in queue.of_user(user):
                entries[entry.id] = entry
                if queue.is_parked(entry.id):
                    parked.setdefault(entry.id, []).append(name)
                else:
                    waiting.setdefault(entry.id, []).append((name, entry.tries))
        for entry_id in sorted(entries):
            line.entry(entries[entry_id], waiting.get(entry_id, ()), parked.get(entry_id, ()))
