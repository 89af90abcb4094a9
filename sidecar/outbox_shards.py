"""The shards of the outbox that this process works, each for as long as its lease lasts by this process' own clock.

A process that slept past its leases, or cannot reach the cache, is told so by nobody: it has to see for itself that others may
be at work by now (F38, F46).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from sidecar.slots.cache import Lease


class Shards:
    """By the name of their lease. Times are `time.monotonic`, which goes on while a process is stopped; a loop's time may not."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[Lease, float]] = {}

    def keep(self, lease: Lease, until: float) -> bool:
        """Held from now on, until then; True if it was not held under this very lease."""
        before = self._held.get(lease.name)
        self._held[lease.name] = lease, until
        return before is None or before[0] != lease

    def drop(self, name: str) -> bool:
        """Held no longer; whether it was."""
        return self._held.pop(name, None) is not None

    def lease(self, name: str) -> Lease | None:
        """None: it is not held, or not any more."""
        lease, until = self._held.get(name, (None, 0.0))
        return lease if time.monotonic() < until else None

    def holds(self, lease: Lease) -> bool:
        """Whether the work goes on under this very lease."""
        return self.lease(lease.name) == lease

    def __contains__(self, name: str) -> bool:
        return self.lease(name) is not None

    def __iter__(self) -> Iterator[str]:
        """The names of those that are held."""
        return iter([name for name in self._held if name in self])

    @property
    def leases(self) -> list[Lease]:
        """The leases of those that are held."""
        return [lease for name in self._held if (lease := self.lease(name)) is not None]

    def over(self) -> list[str]:
        """Those whose lease has ended and was not renewed; they are dropped."""
        names = [name for name in self._held if name not in self]
        for name in names:
            del self._held[name]
        return names
