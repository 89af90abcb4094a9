"""Slots of a Redis Cluster move, and nodes come and go, while people write: F11 (semantics §7, §10)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from tests.faults.careful import SEED, Crowd
from tests.faults.clusters import (
    PATIENCE,
    all_sound,
    at_work,
    go_on,
    neighbour_of,
    refusals,
    sidecars,
    slot_of,
    someone_on,
)
from tests.faults.world import get
from tests.integration.world import until
from tests.services.cluster import RedisCluster
from tests.services.cluster_node import ClusterNode
from tests.services.fixtures import StartCluster

pytestmark = pytest.mark.timeout(180)


async def move(cluster: RedisCluster, slot: int, to: ClusterNode, chance: Random) -> None:
    """As `redis-cli --cluster reshard` does it, a few keys at a time, with rests: all there, and nobody told yet, too."""
    async with cluster.resharding(slot, to) as resharding:
        await asyncio.sleep(chance.uniform(0, 0.2))
        while True:
            if not await resharding.move_keys(chance.randint(1, 6)):
                break
            await asyncio.sleep(chance.uniform(0, 0.05))
        await asyncio.sleep(chance.uniform(0, 0.2))


async def test_f11_slots_move_while_people_write(start_cluster: StartCluster, tmp_path: Path) -> None:
    """F11: ASK, TRYAGAIN and MOVED on the way of every change: nothing is lost, nothing is done twice, nobody is sent away."""
    cluster = await start_cluster()
    people = [await someone_on(cluster, node) for node in cluster.nodes[:2]]
    chance = Random(SEED)
    async with (
        sidecars(tmp_path, cluster) as servers,
        Crowd(people, 3, *(each.url for each in servers), seed=SEED) as crowd,
    ):
        await crowd.live(0.5)
        async with at_work(crowd):
            for person in people * 4:
                slot = slot_of(person)
                others = [node for node in cluster.nodes if node is not await cluster.owner(slot)]
                await move(cluster, slot, chance.choice(others), chance)
        told = await refusals(cluster)
        assert min(told.get(word, 0) for word in ("ASK", "MOVED", "TRYAGAIN")) > 0, told
        await go_on(servers, *[await neighbour_of(person) for person in people])
        await crowd.settle(servers[0])
        await all_sound(cluster)
        assert 1013 not in crowd.closes


async def test_f11_a_node_that_is_new_is_filled_and_emptied_again(start_cluster: StartCluster, tmp_path: Path) -> None:
    """F11: the first slot of a node that no layout names yet, a node that leaves for good, and people who write all the while."""
    cluster = await start_cluster()
    person = await someone_on(cluster, cluster.nodes[0])
    slot = slot_of(person)
    async with (
        sidecars(tmp_path, cluster) as servers,
        Crowd([person], 3, *(each.url for each in servers), seed=SEED) as crowd,
    ):
        home = await cluster.owner(slot)
        async with at_work(crowd):
            new = await cluster.grow()
            await move(cluster, slot, new, Random(SEED))
            await go_on(servers, await neighbour_of(person))
            await asyncio.sleep(0.5)
            await move(cluster, slot, home, Random(SEED))
            await cluster.dismiss(new)
            await go_on(servers, await neighbour_of(person))
        await crowd.settle(servers[0])
        await all_sound(cluster)
        for server in servers:
            status, told = await get(server, "/readyz")
            assert (status, told["parts"]["cache"]["detail"]["state"]) == (200, "ok"), told


async def test_f11_a_subscription_does_not_stay_at_a_node_that_has_left(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """F11, S55: the node lives on and answers each ping, but what is published in the cluster does not reach it any more."""
    cluster = await start_cluster()
    person = await someone_on(cluster, cluster.nodes[0])
    home = cluster.nodes[0]
    new = await cluster.grow()
    await cluster.move_slot(slot_of(person), new)
    async with sidecars(tmp_path, cluster) as servers:

        async def channels(*nodes: ClusterNode) -> int:
            return sum([len(await node.cli("PUBSUB", "CHANNELS", "sidecar:notice:*")) for node in nodes])

        async def listens_there() -> bool:
            """Those who listen elsewhere are sent away, until chance leads one of them there."""
            if await channels(new):
                return True
            for node in cluster.nodes[:3]:
                await node.cli("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.3)
            return False

        await until(listens_there, 60)
        await cluster.move_slot(slot_of(person), home)
        await cluster.dismiss(new, kill=False)
        await go_on(servers, await neighbour_of(person))

        async def listen_elsewhere() -> bool:
            return await channels(*cluster.nodes) == 2 and await channels(new) == 0

        await until(listen_elsewhere, PATIENCE)
