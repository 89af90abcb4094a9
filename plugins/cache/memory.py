"""The cache `memory`: everything in this process, written to a journal so that it survives kill -9.

For one process; several that share their cache take `redis`. It is the reference of the cache contract.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from pydantic import BaseModel, Field

from plugins.cache.journal import Journal
from plugins.cache.memory_chats import MemoryChats
from plugins.cache.memory_compaction import Compaction
from plugins.cache.memory_leases import MemoryLeases
from plugins.cache.memory_outbox import MemoryOutbox
from plugins.cache.memory_replay import Replay
from plugins.cache.memory_state import State
from sidecar import Cache, ChatId, ChatInDB, Finding, Page, StartRefused, Surroundings, Unavailable, UserHash, hookimpl

_TICK = 1.0
_SWEPT = 2000  # places that one tick looks at, at most: a few milliseconds
_COMPACT_FROM = 64 * 1024 * 1024


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 as they were at the start, going on evenly: setting the system's clock ends no life early."""
    begun = time.time() - time.monotonic()
    return lambda: begun + time.monotonic()


class Memory:
    """Chats, outbox and leases in memory, with a journal in `data_dir/cache` unless that is turned off.

    The journal survives the death of the process, not a power failure: nothing is forced to the disk at a commit.
    Damaged files refuse the start (`StartRefused`) and are left as they are.
    """

    api = 1

    class Options(BaseModel, extra="forbid"):
        journal: bool = Field(default=True, description="Write every change to data_dir/cache before it is answered.")

    def __init__(
        self,
        options: Options,
        surroundings: Surroundings,
        *,
        clock: Callable[[], float] | None = None,
        compact_from: int = _COMPACT_FROM,
    ) -> None:
        """`clock` gives seconds since 1970; `compact_from` is the size in bytes from which the journal is compacted."""
        self._folder = surroundings.data_dir / "cache" if options.journal else None
        self._compact_from = compact_from
        self._state = State(clock if clock is not None else steady_clock())
        self._leases = MemoryLeases(self._state.clock)
        self._chats = MemoryChats(self._state)
        self._cache = Cache(self._chats, MemoryOutbox(self._state, self._leases), self._leases)
        self._compaction: Compaction | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._stack = ExitStack()

    async def __aenter__(self) -> Self:
        with ExitStack() as stack:
            if self._folder is not None:
                journal = stack.enter_context(Journal(self._folder))
                self._read_back(journal)
                self._compaction = Compaction(self._state, self._leases, journal, self._compact_from)
                try:
                    self._compaction.at_start()
                except (Unavailable, OSError) as error:
                    raise StartRefused(
                        "cache", f"{self._folder}: {error}; make room there, or mend the disk, and start again"
                    ) from error
                self._state.journal = journal
            self._stack = stack.pop_all()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state.closed = self._leases.closed = True
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        if self._compaction is not None:
            await self._compaction.stop()
        self._stack.close()

    def _read_back(self, journal: Journal) -> None:
        replay = Replay(self._state)
        for record in journal.records():
            replay.apply(record)
        replay.finish()
        self._leases.begin_above(replay.fence)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._state.sweep(self._state.clock(), _SWEPT)
            if self._compaction is not None:
                self._compaction.look()

    @hookimpl
    async def provide_cache(self) -> Cache:
        return self._cache

    @hookimpl
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        """The chats that are here, newest first by change and id. `total` counts those that only the cache knows: drafts."""
        here = self._chats.here(user)
        found = [chat for chat in here if before is None or (chat.updated_at, chat.id) < before]
        found.sort(key=lambda chat: (chat.updated_at, chat.id), reverse=True)
        return Page(
            items=[chat.in_db() for chat in found[:limit]],
            more=len(found) > limit,
            total=sum(not chat.persisted for chat in here),
        )

    def findings(self) -> Sequence[Finding]:
        """For `doctor`."""
        if self._folder is None:
            return [
                Finding(
                    "no-journal",
                    "warning",
                    "cache.options.journal is off: with the process go the drafts and what was not yet stored",
                    "set cache.options.journal to true",
                )
            ]
        journal = self._state.journal
        found = []
        if journal is not None and not journal.writable:
            says = f"the journal in {self._folder} cannot be written: every change is refused"
            found.append(Finding("journal", "error", says, "look at its disk, then restart the sidecar"))
        torn = sorted(each.name for each in self._folder.glob("*.torn-*"))
        if torn:
            says = f"a crash left the ends of unfinished records in {self._folder}: {', '.join(torn)}"
            found.append(Finding("torn", "note", says, "nothing was answered for them; look at them, or delete them"))
        return found

    def state(self) -> Mapping[str, object]:
        """For `/readyz`: whether changes can be written down, and how much is here."""
        journal = self._state.journal
        return {
            "state": "ok" if not self._state.closed and (journal is None or journal.writable) else "unavailable",
            "persons": len(self._state.persons),
            "journal_bytes": journal.size if journal is not None else 0,
        }
