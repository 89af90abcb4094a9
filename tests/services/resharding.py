"""A hash slot on its way from one node of a cluster to another."""

from __future__ import annotations

from collections.abc import Iterable

from tests.services.cluster_node import ClusterNode


class Resharding:
    """The steps that `redis-cli --cluster reshard` takes, to be looked at in between."""

    def __init__(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        self.slot = slot
        self.source = source
        self.target = target

    async def begin(self) -> None:
        """From here on the source answers ASK for what it does not have, and the target serves who was asked to ask it."""
        await self.target.cli("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.source.id)
        await self.source.cli("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.target.id)

    async def move_keys(self, count: int = 1_000_000) -> list[str]:
        """Moves up to so many of the slot's keys; those that it moved."""
        keys: list[str] = await self.source.cli("CLUSTER", "GETKEYSINSLOT", self.slot, count)
        if keys:
            await self.source.cli("MIGRATE", self.target.host, self.target.port, "", 0, 10_000, "KEYS", *keys)
        return keys

    async def finish(self, primaries: Iterable[ClusterNode]) -> None:
        """Moves the rest and tells everyone, the new owner first."""
        while await self.move_keys(1_000):
            pass
        for node in [self.target, self.source, *primaries]:
            await node.cli("CLUSTER", "SETSLOT", self.slot, "NODE", self.target.id)
