"""What a command works with."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from sidecar.config import Config
from sidecar.connections import Registry
from sidecar.outbox import OutboxWorker
from sidecar.parts import Parts
from sidecar.plugins import Plugins

_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Live:
    """What only a process with connections or a working outbox has."""

    registry: Registry
    worker: OutboxWorker
    patience: float = 3.0
    """Seconds that a command waits for deliveries; they go on without it."""


@dataclass(frozen=True, slots=True)
class Work:
    """The parts, and the live things where there are any."""

    config: Config
    plugins: Plugins
    parts: Parts
    live: Live | None = None

    async def deliveries(self, plugins: Collection[str], seconds: float | None = None) -> int:
        """Lets what waits for these plugins go out, for so many seconds at most (None: the patience); how much still waits then."""
        loop = asyncio.get_running_loop()
        patience = self.live.patience if self.live is not None else 0.0
        end = loop.time() + (patience if seconds is None else seconds)
        while True:
            self.wake()
            positions = await self.parts.cache.outbox.positions()
            waiting = sum(position.pending for name, position in positions.items() if name in plugins)
            if not waiting or self.live is None or loop.time() >= end:
                return waiting
            await asyncio.sleep(_LOOK_SECONDS)

    def wake(self) -> None:
        """There is something to deliver."""
        if self.live is not None:
            self.live.worker.wake()
