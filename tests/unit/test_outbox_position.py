"""A plugin's position on the outbox, by itself."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sidecar import Entry, Lease
from sidecar.outbox_position import PluginPosition
from sidecar.outbox_shards import Shards
from tests.model.clock import VirtualLoop


class _NothingToDo:
    """An outbox without an entry."""

    def __init__(self) -> None:
        self.looks = 0

    async def pending(self, shard: Lease, plugin: str, limit: int) -> Sequence[Entry]:
        self.looks += 1
        return ()


@pytest.mark.parametrize("number", range(5))
def test_it_looks_every_quarter_of_a_second_and_rests_in_between(number: int) -> None:
    """A clock that stands still between two readings, and sums of times that are rounded, are no reason to go round and round."""
    chance = Random(number)
    loop = VirtualLoop(chance)
    loop._virtual += chance.random()
    outbox = _NothingToDo()
    shards = Shards()
    parts: Any = SimpleNamespace(cache=SimpleNamespace(outbox=outbox), metrics=None)

    shards.keep(Lease("outbox:0", "me", 1), math.inf)
    position = PluginPosition(parts, cast("Any", SimpleNamespace(name="store")), shards)
    work = loop.create_task(position.work())

    async def end() -> None:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    try:
        loop.run(asyncio.sleep(60))
    finally:
        loop.wind_up(end())
    assert 239 <= outbox.looks <= 242
