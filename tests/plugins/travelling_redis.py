"""`cache.redis` in another time: a file says by how many seconds its clock is ahead, for tests of lifetimes on real processes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from plugins.cache.redis import Redis
from sidecar import Surroundings


class TravellingRedis(Redis):
    class Options(Redis.Options):
        clock: Path

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        super().__init__(options, surroundings)
        self._clock = options.clock
        self._follow: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._follow = asyncio.get_running_loop().create_task(self._follow_clock())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._follow is not None:
            self._follow.cancel()
            await asyncio.gather(self._follow, return_exceptions=True)
        await super().__aexit__(kind, error, trace)

    async def _follow_clock(self) -> None:
        while True:
            with suppress(FileNotFoundError, ValueError):
                skew = float(self._clock.read_text())
                if skew != self._settings.skew:
                    self._settings.skew = skew
            await asyncio.sleep(0.02)
