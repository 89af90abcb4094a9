"""A node of a Redis Cluster is gone for a while, and nobody takes its place: whoever lies elsewhere goes on (semantics §5, §10)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from plugins.cache.redis_layout import Keys
from plugins.cache.redis_link import Link
from plugins.cache.redis_settings import ScriptSettings
from sidecar.errors import Unavailable
from sidecar.outbox import PROCESSES
from tests.device import Device, doc
from tests.faults.careful import SEED, Crowd
from tests.faults.clusters import (
    KEYS,
    PATIENCE,
    SHARDS,
    all_sound,
    at_work,
    go_on,
    neighbour_of,
    serves,
    sidecars,
    slot_of,
    someone_on,
)
from tests.faults.world import AT_ONCE, get
from tests.integration.world import of_chat, until
from tests.services.cluster import RedisCluster
from tests.services.fixtures import StartCluster
from tests.services.proxy import FaultProxy

pytestmark = pytest.mark.timeout(180)
PARTLY = {"node_timeout": 1_000, "cluster_require_full_coverage": False, "appendonly": True, "appendfsync": "always"}
"""A cluster that serves what it can, and keeps what it answered for."""


@pytest.mark.parametrize("number", range(3))
async def test_f2_a_node_that_is_gone_takes_nobody_elsewhere_with_it(
    start_cluster: StartCluster, tmp_path: Path, number: int
) -> None:
    """F2, S72: each of the nodes once. People elsewhere edit, and their messages are stored; nobody's socket is closed; those of the
    lost node are told `unavailable`, keep what they wrote, and go on when it is back."""
    cluster = await start_cluster(**PARTLY)
    lost = cluster.nodes[number]
    slots = (await cluster.slots())[lost]
    theirs = await someone_on(cluster, lost)
    people = [await someone_on(cluster, node) for node in cluster.nodes if node is not lost]
    async with (
        sidecars(tmp_path, cluster, drafts=AT_ONCE) as servers,
        Crowd([theirs, people[0]], 2, *(each.url for each in servers), seed=SEED) as crowd,
    ):
        neighbours = [await neighbour_of(person) for person in people]
        devices = [await Device(servers[at].url, name, wait=PATIENCE).open() for at, name in enumerate(neighbours)]
        async with at_work(crowd):
            await asyncio.sleep(0.5)
            lost.kill()
            await asyncio.sleep(1.5)
            assert not await serves(servers[0], await neighbour_of(theirs)), "the fault happened"
            for turn in range(4):  # longer than a lease of the outbox lasts
                for device in devices:
                    await until(lambda device=device, turn=turn: _said(device, f"c{turn}"), PATIENCE)
                await asyncio.sleep(1.5)
            elsewhere = [name for number in range(30) if slot_of(name := f"m{number}") not in slots]
            assert len(elsewhere) > 10
            for server in servers:
                assert all([await serves(server, name) for name in elsewhere]), "nobody needs two nodes"
                assert (await get(server, "/readyz"))[0] == 200, "what can still work works"
            await lost.start()
            await cluster.settled()
            await go_on(servers, await neighbour_of(theirs), *neighbours)
        await crowd.settle(servers[0])
        await all_sound(cluster)
        assert 1013 not in crowd.closes
        for device in devices:
            await device.close()


async def _said(device: Device, chat: str) -> bool:
    """Whether a message of a new chat was accepted and stored."""
    sent = {"tempChatId": chat, "clientMessageId": "m", "content": doc("said")}
    if (await device.ask("message_send", sent, f"operation-of-{chat}"))["type"] != "message_accepted":
        return False
    found = await device.event("message_update", of_chat(device.full(chat)))
    return bool(found["status"] == "delivered")


async def test_all_nodes_come_back_under_other_addresses(start_cluster: StartCluster) -> None:
    """As when everything that runs it is started anew: none of the addresses that were heard is good any more, the URL is."""
    before, keys = await start_cluster(), Keys("sidecar", 4)
    packed = ScriptSettings(keys, "process").packed
    async with (
        FaultProxy(before.nodes[0].address) as door,
        Link(f"redis://{door.host}:{door.port}", cluster=True, timeout=1, pool=2) as link,
    ):

        async def all_answer() -> bool:
            try:
                told = await link.run_all(("visits", (keys.visits(shard),), packed(shard), 1) for shard in range(4))
            except Unavailable:
                return False
            return told == [[]] * 4

        assert await all_answer()
        for node in before.nodes:
            node.kill()
        door.reset()
        assert not await all_answer(), "the fault happened"
        after = await start_cluster()
        door.target = after.nodes[0].address
        await until(all_answer, PATIENCE)
        assert link.trouble == ""
        here = {f"{node.host}:{node.port}" for node in after.nodes}
        assert {name.partition(" ")[0] for name in link.health} <= here, "nothing is left of those that have gone"


async def test_f3_a_node_that_hangs_costs_nobody_elsewhere_their_leases(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """F3, semantics §5: each call to it lasts until its deadline, which is longer than a lease here, and the shards on the other
    nodes are worked without a break."""
    cluster = await start_cluster(node_timeout=60_000)
    hung = await cluster.owner(RedisCluster.slot_of(KEYS.lease(PROCESSES)[1][0]))
    slots = (await cluster.slots())[hung]
    alive = {f"outbox:{shard}" for shard in range(SHARDS) if RedisCluster.slot_of(KEYS.visits(shard)) not in slots}
    async with sidecars(tmp_path, cluster, timeout="8s") as servers:

        def worked() -> set[str]:
            return {name for server in servers for name in server.context.worker._shards}

        await until(lambda: len(worked()) == SHARDS, PATIENCE)
        hung.pause()
        try:
            gaps = 0
            for _ in range(150):
                await asyncio.sleep(0.1)
                gaps += not worked() >= alive
            assert not await serves(servers[0], await someone_on(cluster, hung)), "the fault happened"
        finally:
            hung.resume()
        assert gaps == 0
        await until(lambda: len(worked()) == SHARDS, PATIENCE)
