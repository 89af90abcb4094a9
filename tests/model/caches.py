"""Which cache the model is played against, and what becomes of its data when everything is lost. The one place to name another."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from plugins.cache.memory import Memory
from sidecar import Cache, ChatId, ChatInDB, Page, Surroundings, UserHash
from tests.model.clock import Wall


class CachePlugin(Protocol):
    """What one process needs of the plugin in the cache's slot."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    async def provide_cache(self) -> Cache: ...
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]: ...


class Caches(Protocol):
    """A cache that outlives its processes."""

    def plugin(self, wall: Wall) -> CachePlugin:
        """The plugin of a process that starts now."""

    def lose(self) -> None:
        """Everything in it is gone. No process runs meanwhile."""

    def close(self) -> None:
        """The run is over."""


class MemoryCaches:
    """`cache.memory`, with its journal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def plugin(self, wall: Wall) -> CachePlugin:
        return Memory(Memory.Options(), Surroundings(self._folder, "127.0.0.1"), clock=wall.seconds)

    def lose(self) -> None:
        shutil.rmtree(self._folder / "cache")

    def close(self) -> None:
        """Its files go with the folder."""
