"""One memory cache for several servers in this process: what they share then, processes share by a cache server."""

from __future__ import annotations

from collections import Counter
from typing import Self

from pydantic import BaseModel

from plugins.cache.memory import Memory
from sidecar import Cache, Surroundings, hookimpl

_CACHES: dict[str, Memory] = {}
_USERS: Counter[str] = Counter()


class Shared:
    api = 1

    class Options(BaseModel, extra="forbid"):
        name: str
        """Those of one name have one cache, which goes with the last of them."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._name = options.name
        self._surroundings = surroundings

    async def __aenter__(self) -> Self:
        _USERS[self._name] += 1
        if self._name not in _CACHES:
            _CACHES[self._name] = Memory(Memory.Options(journal=False), self._surroundings)
            await _CACHES[self._name].__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        _USERS[self._name] -= 1
        if not _USERS[self._name]:
            await _CACHES.pop(self._name).__aexit__(None, None, None)

    @hookimpl
    async def provide_cache(self) -> Cache:
        return await _CACHES[self._name].provide_cache()
