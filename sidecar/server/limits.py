"""How much one socket may send: a token bucket (threats T22, T53). Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

COSTS = {"sync_request": 10.0, "chats_request": 3.0, "messages_request": 3.0}
"""What a frame costs; any other costs 1."""
_ROUNDING = 1e-6
"""Whoever waited exactly as long as it was told is not refused for the last bit of a float."""


@dataclass(slots=True)
class Bucket:
    """Refills by `rate` a second up to `burst`. Refused frames cost too, so that a flood is told from a hurry."""

    rate: float
    burst: float
    tokens: float
    at: float

    def take(self, cost: float, now: float) -> float:
        """0.0 when the frame may pass, else the seconds after which the same would."""
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        self.tokens -= cost
        if self.tokens >= -_ROUNDING:
            return 0.0
        return (cost - self.tokens) / self.rate

    @property
    def flooded(self) -> bool:
        """Whether so much was sent beyond the limit that the socket is closed."""
        return self.tokens < -self.burst
