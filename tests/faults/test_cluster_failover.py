"""A primary of a Redis Cluster is gone, and one of its replicas takes its place: F10, F11 (semantics §2, §6, §10)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.careful import SEED, Crowd
from tests.faults.clusters import PATIENCE, all_sound, at_work, go_on, neighbour_of, sidecars, slot_of, someone_on
from tests.faults.hosts import Hosts
from tests.faults.people import Watcher, Writer, alive
from tests.faults.test_killed import stored, told
from tests.faults.world import AT_ONCE, get
from tests.integration.world import until
from tests.services.fixtures import StartCluster

pytestmark = pytest.mark.timeout(180)


async def test_f10_a_killed_primary_of_a_cluster_is_replaced_and_nothing_is_lost(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """F10, F11: kill -9 while six devices write; its replica had everything. Nobody may be told that anything is missing.

    Twice: the second time it is the former replica, and the one that was killed first takes its place again.
    """
    cluster = await start_cluster(replicas=1, node_timeout=1_000)
    there = await someone_on(cluster, cluster.nodes[0])
    elsewhere = await someone_on(cluster, cluster.nodes[1])
    async with (
        sidecars(tmp_path, cluster) as servers,
        Crowd([there, elsewhere], 3, *(each.url for each in servers), seed=SEED) as crowd,
    ):
        for _ in range(2):
            await crowd.live(0.6)
            primary = await cluster.owner(slot_of(there))
            async with at_work(crowd):
                await asyncio.sleep(0.3)
                await cluster.kill(primary)
                new = await cluster.taken_over(primary)
                assert new is not primary, "the fault happened"
                await go_on(servers, await neighbour_of(there), await neighbour_of(elsewhere))
            await crowd.settle(servers[0])
            await all_sound(cluster)
            for server in servers:
                status, told = await get(server, "/readyz")
                assert (status, told["parts"]["cache"]["detail"]["state"]) == (200, "ok"), told
            await primary.start()
            await cluster.settled()
        assert 1013 not in crowd.closes, "a failover is no reason to send people away"


async def test_f10_a_failover_by_hand_is_hardly_noticed(start_cluster: StartCluster, tmp_path: Path) -> None:
    """F10, F11: `CLUSTER FAILOVER` of each node in turn, there and back, while people write: nothing is lost, nobody sent away."""
    cluster = await start_cluster(replicas=1)
    people = [await someone_on(cluster, node) for node in cluster.nodes[:3]]
    async with (
        sidecars(tmp_path, cluster) as servers,
        Crowd(people, 2, *(each.url for each in servers), seed=SEED) as crowd,
    ):
        async with at_work(crowd):
            for person in people * 2:
                primary = await cluster.owner(slot_of(person))
                assert await cluster.failover(primary) is not primary, "the fault happened"
                await asyncio.sleep(0.2)
            await go_on(servers, *[await neighbour_of(person) for person in people])
        await crowd.settle(servers[0])
        await all_sound(cluster)
        assert 1013 not in crowd.closes


async def test_f10_a_replica_of_a_cluster_that_lags_is_promoted(start_cluster: StartCluster, tmp_path: Path) -> None:
    """F10: what it did not have is found missing, a new epoch begins for those people alone, and their devices bring it back."""
    cluster = await start_cluster(replicas=1, proxied=True, node_timeout=1_000, cluster_require_full_coverage=False)
    there = await someone_on(cluster, cluster.nodes[0])
    elsewhere = await someone_on(cluster, cluster.nodes[1])
    async with (
        sidecars(tmp_path, cluster) as servers,
        Crowd([there, elsewhere], 3, *(each.url for each in servers), seed=SEED) as crowd,
    ):
        theirs, others = crowd.clients[:3], crowd.clients[3:]
        for _ in range(2):
            await crowd.live(0.6)
            await crowd.settle(servers[0])
            primary = await cluster.owner(slot_of(there))
            await cluster.caught_up(primary)
            epochs = {client: client.tab.epoch for client in others}
            async with at_work(crowd, messages=False):
                await asyncio.sleep(0.2)
                cluster.pause_replication(primary)
                await asyncio.sleep(0.4)
                assert await cluster.lag(primary) > 0, "the fault happened"
                crowd.losses += 1
                primary.kill()
                lost = asyncio.create_task(crowd.lost(theirs, 2 * PATIENCE))
                await cluster.taken_over(primary)
                await lost
            await go_on(servers, await neighbour_of(there), await neighbour_of(elsewhere))
            await crowd.live(0.4)
            await crowd.settle(servers[0])
            assert {client: client.tab.epoch for client in others} == epochs, "whose node it was not lost nothing"
            await all_sound(cluster)
            cluster.resume_replication(primary)
            await primary.start()
            await cluster.settled()


async def test_f10_a_primary_that_slept_and_was_replaced_wakes_up(start_cluster: StartCluster, tmp_path: Path) -> None:
    """F10, F11, F38: SIGSTOP of a primary until its replica has its place, then SIGCONT: it still holds itself for the primary, and
    carries out what reached it; whoever was told of that by it finds out, and nothing that lasts is contradicted."""
    cluster = await start_cluster(replicas=1, node_timeout=1_000)
    there = await someone_on(cluster, cluster.nodes[0])
    async with (
        sidecars(tmp_path, cluster) as servers,
        Crowd([there], 3, *(each.url for each in servers), seed=SEED) as crowd,
    ):
        for _ in range(2):
            await crowd.live(0.6)
            primary = await cluster.owner(slot_of(there))
            await cluster.caught_up(primary)
            async with at_work(crowd):
                await asyncio.sleep(0.3)
                primary.pause()
                assert await cluster.taken_over(primary) is not primary, "the fault happened"
                await go_on(servers, await neighbour_of(there))
                primary.resume()
                await cluster.settled()
            await go_on(servers, await neighbour_of(there))
            await crowd.settle(servers[0])
            await all_sound(cluster)


async def test_f10_two_processes_on_a_cluster_whose_primaries_die_in_turn(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """F10, F35, S31: every message that was accepted is stored once and in its order, second devices see each once, whichever
    primary is killed, the outbox's leases with it."""
    cluster = await start_cluster(replicas=1, node_timeout=1_000)
    hosts = Hosts(tmp_path, cluster.nodes[0], cluster=True)
    async with hosts(2, drafts=AT_ONCE) as both:
        urls = [host.url for host in both]
        writers = [Writer(urls, f"w{number}", per_chat=10, pause=0.1) for number in range(8)]
        watchers = [Watcher(urls, f"w{number}", pause=0.1) for number in range(8)]
        async with alive([*writers, *watchers]):
            for primary in cluster.nodes[:3]:
                await asyncio.sleep(1.0)
                await cluster.kill(primary)
                assert await cluster.taken_over(primary) is not primary, "the fault happened"
                marks = [len(writer.accepted) for writer in writers]
                await until(
                    lambda marks=marks: all(len(w.accepted) > mark + 2 for w, mark in zip(writers, marks, strict=True)),
                    PATIENCE,
                )
                await primary.start()
                await cluster.settled()
        assert sum(len(watcher.heard) for watcher in watchers) > 0
        assert not {end for person in (*writers, *watchers) for end in person.ends}, "nobody was sent away"
        await stored(hosts, writers)
        await told(writers)
        for host in both:
            host.spotless()
    await all_sound(cluster)
