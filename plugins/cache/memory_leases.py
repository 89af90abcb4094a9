"""Leases of one process: places with an end. They do not outlive it: whoever held one is gone as well."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sidecar import Lease, Leases, Unavailable


@dataclass(slots=True)
class _Place:
    end: float
    note: bytes
    fence: int


class MemoryLeases(Leases):
    """Fences begin at the clock, in microseconds, and above every one of an earlier run."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` gives seconds since 1970."""
        self._clock = clock
        self._names: dict[str, dict[str, _Place]] = {}
        self._ends: list[tuple[float, str]] = []
        self._watched: set[str] = set()  # names that stand in `_ends`, each once however many holders come and go
        self._fence = int(clock() * 1e6)
        self.closed = False

    @property
    def fence(self) -> int:
        """The fence that was given out last."""
        return self._fence

    def begin_above(self, fence: int) -> None:
        """Fences are above this one from now on."""
        self._fence = max(self._fence, fence)

    async def take(self, name: str, holder: str, seconds: float, places: int = 1, note: bytes = b"") -> Lease | None:
        now = self._now()
        self._expire(now)
        held = self._names.get(name, {})
        mine = held.get(holder)
        if mine is not None and mine.end > now:
            mine.end, mine.note = now + seconds, note
            return Lease(name, holder, mine.fence)
        if sum(place.end > now for place in held.values()) >= places:
            return None
        self._fence += 1
        held[holder] = _Place(now + seconds, note, self._fence)
        self._names[name] = held
        if name not in self._watched:
            self._watched.add(name)
            heapq.heappush(self._ends, (now + seconds, name))
        return Lease(name, holder, self._fence)

    async def leave(self, lease: Lease) -> None:
        now = self._now()
        held = self._names.get(lease.name, {})
        if self.current(lease, now):
            del held[lease.holder]
            if not held:
                del self._names[lease.name]

    async def held(self, name: str) -> Mapping[str, bytes]:
        now = self._now()
        return {holder: place.note for holder, place in self._names.get(name, {}).items() if place.end > now}

    def current(self, lease: Lease, now: float) -> bool:
        """Whether this lease is held, under this very fence."""
        place = self._names.get(lease.name, {}).get(lease.holder)
        return place is not None and place.fence == lease.fence and place.end > now

    def _now(self) -> float:
        if self.closed:
            raise Unavailable("cache", "it is closed")
        return self._clock()

    def _expire(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, name = heapq.heappop(self._ends)
            held = self._names.get(name, {})
            for holder in [holder for holder, place in held.items() if place.end <= now]:
                del held[holder]
            if held:
                heapq.heappush(self._ends, (min(place.end for place in held.values()), name))
            else:
                self._names.pop(name, None)
                self._watched.discard(name)
