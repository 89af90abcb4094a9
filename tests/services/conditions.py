"""What it is like on the way between a client and a server: delay, rate, black hole, and what was seen of it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

_CHUNK = 65_536


class Way(StrEnum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


@dataclass(slots=True)
class Seen:
    """What a proxy has seen and done, for the proof that a fault happened."""

    connected_at: list[float] = field(default_factory=list)
    """When each connection came, in the loop's time."""
    unreachable: int = 0
    """Connections that came while the server could not be reached: they were reset."""
    delayed: int = 0
    """Chunks that were held up by a delay or a rate."""
    held: int = 0
    """Chunks that stood before a black hole."""
    cut: int = 0
    """Connections that were cut, by drop, reset, half_close, chance, flapping, or together with an answer."""
    flaps: int = 0
    """How often `flapping` took the server away."""
    requests: int = 0
    answers: int = 0
    """Requests and answers that came, whatever then became of them."""

    @property
    def connects(self) -> int:
        return len(self.connected_at)


@dataclass(slots=True)
class Settings:
    """What one way is like. Plain weather: no delay, no limit, nothing lost."""

    delay: float = 0
    """Seconds that each chunk is under way."""
    jitter: float = 0
    """Up to this many seconds more, by chance, in order all the same."""
    rate: float | None = None
    """Bytes a second, for each connection."""
    black_hole: bool = False
    """Nothing goes on and nothing is closed; what came meanwhile goes on afterwards, as TCP sends it again."""
    cut: float = 0
    """The chance, for each chunk, that the connection is reset instead."""


class Conditions:
    """One way's settings. A change holds at once, for what waits already too."""

    def __init__(self, seen: Seen, chance: random.Random) -> None:
        self._seen = seen
        self._chance = chance
        self._settings = Settings()
        self._changed = asyncio.Event()

    def set(self, settings: Settings) -> None:
        self._settings = settings
        self._changed.set()
        self._changed = asyncio.Event()

    def change(self, **changes: Any) -> None:
        """Sets these and keeps the others."""
        self.set(replace(self._settings, **changes))

    def cuts(self) -> bool:
        """Whether chance has it that the connection ends here."""
        return self._settings.cut > 0 and self._chance.random() < self._settings.cut

    @property
    def piece(self) -> int:
        """How many bytes go on at once: with a rate, so few that they trickle."""
        rate = self._settings.rate
        return _CHUNK if rate is None else max(1, min(_CHUNK, int(rate / 20)))

    async def admit(self, arrived: float, free: float, size: int) -> float:
        """Returns when these bytes may go on; `free` is when those before them went, and the answer when these did."""
        luck = self._chance.random()
        loop = asyncio.get_running_loop()
        held = delayed = False
        while True:
            now = self._settings
            due = max(arrived + now.delay + luck * now.jitter, free) + (size / now.rate if now.rate else 0)
            if now.black_hole:
                self._seen.held += not held
                held, wait = True, None
            elif (wait := due - loop.time()) > 0:
                self._seen.delayed += not delayed
                delayed = True
            else:
                return due
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                pass
