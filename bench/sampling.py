"""A sampling profiler for the measured server: it looks at the main thread's stack as often as the kernel's clock ticks.

What it finds is real time, unlike that of a profiler which makes each call dearer. Time in C counts for the line that
called it.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

INTERVAL = 0.001
"""Seconds of CPU time; most kernels tick more slowly, and then so does this."""
_DEEPEST = 60

Place = tuple[str, str, int]
"""File, function, line."""


@dataclass(slots=True)
class Samples:
    """Stacks, the innermost place first, with how often each was met."""

    stacks: Counter[tuple[Place, ...]] = field(default_factory=Counter)

    def start(self) -> None:
        """From now on; on the main thread."""
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _take(self, number: int, frame: FrameType | None) -> None:
        stack: list[Place] = []
        while frame is not None and len(stack) < _DEEPEST:
            code = frame.f_code
            stack.append((code.co_filename, code.co_qualname, frame.f_lineno))
            frame = frame.f_back
        self.stacks[tuple(stack)] += 1

    def write(self, path: Path) -> None:
        path.write_text(json.dumps([[count, stack] for stack, count in self.stacks.items()]), encoding="utf-8")


def read(path: Path) -> Samples:
    """What `write` wrote."""
    found: Sequence[Any] = json.loads(path.read_text(encoding="utf-8"))
    samples = Samples()
    for count, stack in found:
        samples.stacks[tuple((file, function, line) for file, function, line in stack)] += count
    return samples
