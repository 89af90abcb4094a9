"""When a worker that died is started again, and when that is hopeless."""

from __future__ import annotations

from dataclasses import dataclass

STEADY_SECONDS = 10.0
"""A worker that served for so long began well: what ends it afterwards is something else."""
_TRIES = 5
_LONGEST_SECONDS = 30.0


@dataclass(slots=True)
class Restarts:
    """Of one worker."""

    failures: int = 0
    """In a row: ends before it served, or soon after it had begun to."""

    def died(self, served: float) -> float:
        """Seconds to wait before the next start. `served`: seconds for which it had accepted sockets."""
        if served >= STEADY_SECONDS:
            self.failures = 0
            return 0.0
        self.failures += 1
        return min(_LONGEST_SECONDS, 0.25 * 2.0**self.failures)

    def steady(self) -> None:
        """It has served for long enough."""
        self.failures = 0

    @property
    def hopeless(self) -> bool:
        """It dies at once, again and again. Where another worker serves it is tried all the same."""
        return self.failures >= _TRIES
