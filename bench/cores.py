"""Who runs where: the load generator never shares a core with what it measures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores that are handed out; all None where there is only one, or the system cannot pin."""

    generator: int | None = None
    server: int | None = None
    second: int | None = None
    """Of a second server process."""
    redis: int | None = None

    def servers(self, count: int) -> Sequence[int | None]:
        """The core of each of so many server processes."""
        return [(self.server, self.second)[number % 2] for number in range(count)]

    def shared(self, count: int) -> Sequence[int]:
        """The cores of so many server processes and of Redis, each once."""
        return sorted({core for core in (*self.servers(count), self.redis) if core is not None})

    def __str__(self) -> str:
        if self.generator is None:
            return "nothing on a core of its own"
        if self.redis == self.server:
            return f"servers and Redis together on core {self.server}, load generator alone on core {self.generator}"
        second = "" if self.second == self.server else f", second server on core {self.second}"
        return (
            f"server on core {self.server}, load generator on core {self.generator}, Redis on core {self.redis}{second}"
        )


def assign() -> Cores:
    """With two cores all that serves shares one; with three Redis has its own, with four a second server process too."""
    if not hasattr(os, "sched_getaffinity"):
        return Cores()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return Cores()
    return Cores(
        generator=cores[1],
        server=cores[0],
        second=cores[3] if len(cores) > 3 else cores[0],
        redis=cores[2] if len(cores) > 2 else cores[0],
    )


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What this thread starts meanwhile runs on that core alone; None changes nothing."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_meter(pid: int) -> Callable[[], float]:
    """Tells the seconds of CPU time that this process has used so far, in all its threads; NaN where nobody can."""
    path = Path(f"/proc/{pid}/stat")

    def used() -> float:
        try:
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            return nan
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return used


def busy(core: int | None) -> float:
    """Seconds for which that core has worked since the system started, for whomever; NaN where nobody can tell."""
    if core is None:
        return nan
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _waiting, interrupts, soft, steal = map(int, fields[:8])
            return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return nan
