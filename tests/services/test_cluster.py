"""A cluster of real servers: it serves, fails over, and moves slots, with the answers that clients must understand."""

from __future__ import annotations

import pytest
from redis.exceptions import AskError, MovedError, TryAgainError

from tests.services.cluster import RedisCluster
from tests.services.fixtures import StartCluster
from tests.services.waiting import until


async def test_three_primaries_share_all_slots(redis_cluster: RedisCluster) -> None:
    slots = await redis_cluster.slots()
    assert len(slots) == 3
    assert sorted(slot for some in slots.values() for slot in some) == [*range(16_384)]
    async with redis_cluster.client(decode_responses=True) as redis:
        for number in range(50):
            await redis.set(f"key {number}", number)
        assert [await redis.get(f"key {number}") for number in range(50)] == [str(number) for number in range(50)]
    sizes = [await node.cli("DBSIZE") for node in redis_cluster.nodes]
    assert sum(sizes) == 50
    assert all(sizes)


async def test_the_shared_cluster_is_empty_for_the_next(redis_cluster: RedisCluster) -> None:
    assert [await node.cli("DBSIZE") for node in redis_cluster.nodes] == [0, 0, 0]


async def test_who_has_a_key(redis_cluster: RedisCluster) -> None:
    key = "person:{shard-7}:log"
    assert redis_cluster.slot_of(key) == await redis_cluster.nodes[0].cli("CLUSTER", "KEYSLOT", key)
    owner = await redis_cluster.owner(key)
    await owner.cli("SET", key, 1)
    other = next(node for node in redis_cluster.nodes if node is not owner)
    with pytest.raises(MovedError) as caught:
        await other.cli("GET", key)
    assert (caught.value.slot_id, caught.value.port) == (redis_cluster.slot_of(key), owner.port)


async def test_a_slot_on_its_way_and_after_it(start_cluster: StartCluster) -> None:
    cluster = await start_cluster()
    slot = cluster.slot_of("{tag}")
    source = await cluster.owner(slot)
    target = next(node for node in cluster.nodes if node is not source)
    async with cluster.client(decode_responses=True) as redis:
        for number in range(20):
            await redis.set(f"{{tag}}{number}", number)
        async with cluster.resharding(slot, target) as resharding:
            moved = await resharding.move_keys(10)
            assert len(moved) == 10
            assert await source.cli("DBSIZE") == await target.cli("DBSIZE") == 10
            with pytest.raises(AskError):
                await source.cli("GET", moved[0])
            with pytest.raises(TryAgainError):
                await source.cli("MGET", *(f"{{tag}}{number}" for number in range(20)))
            assert [await redis.get(f"{{tag}}{number}") for number in range(20)] == [str(n) for n in range(20)]
        assert await cluster.owner(slot) is target
        assert [await source.cli("DBSIZE"), await target.cli("DBSIZE")] == [0, 20]
        assert [await redis.get(f"{{tag}}{number}") for number in range(20)] == [str(n) for n in range(20)]
        await cluster.move_slot(slot, source)
        assert await redis.get("{tag}3") == "3"


async def test_an_orderly_failover_loses_nothing(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(replicas=1)
    assert len(cluster.nodes) == 6
    primary = await cluster.owner("key")
    (replica,) = await cluster.replicas_of(primary)
    async with cluster.client(decode_responses=True) as redis:
        await redis.set("key", "kept")
        assert await cluster.failover(primary) is replica
        assert await cluster.replicas_of(replica) == [primary]
        assert await redis.get("key") == "kept"
        await redis.set("key", "changed")
    assert await replica.cli("GET", "key") == "changed"
    assert await cluster.failover(replica) is primary


async def test_a_killed_primary_is_replaced_and_comes_back_as_replica(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(replicas=1, node_timeout=1_000)
    primary = await cluster.owner("key")
    (replica,) = await cluster.replicas_of(primary)
    async with cluster.client(decode_responses=True) as redis:
        await redis.set("key", "kept")
        assert await redis.wait(1, 5_000, target_nodes=redis.get_node_from_key("key")) == 1
        primary.kill()
        assert await cluster.taken_over(primary) is replica
        assert await redis.get("key") == "kept"
        await primary.start()
        await cluster.settled()
        assert await cluster.replicas_of(replica) == [primary]


async def test_a_paused_primary_is_replaced(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(replicas=1, node_timeout=1_000)
    primary = cluster.nodes[0]
    primary.pause()
    new = await cluster.taken_over(primary)
    primary.resume()
    await cluster.settled()
    assert await cluster.replicas_of(new) == [primary]


async def test_without_a_replica_a_killed_primary_takes_the_cluster_down_until_it_is_back(
    start_cluster: StartCluster,
) -> None:
    cluster = await start_cluster(node_timeout=1_000, appendonly=True, appendfsync="always")
    primary = await cluster.owner("key")
    await primary.cli("SET", "key", "kept")
    primary.kill()
    other = next(node for node in cluster.nodes if node is not primary)

    async def down() -> bool:
        return not await other.is_ready()

    await until(down, "nobody noticed")
    await primary.start()
    await cluster.settled()
    assert await primary.cli("GET", "key") == "kept"


async def test_no_client_goes_round_the_proxies(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(proxied=True, replicas=1)
    async with cluster.client(decode_responses=True) as redis:
        keys = [f"key {number}" for number in range(30)]
        for key in keys:
            await redis.set(key, key)
        for node in await cluster.primaries():
            mine = [key for key in keys if await cluster.owner(key) is node]
            assert cluster.proxy_of(node).commands.count("SET") == len(mine) > 0
        owner = await cluster.owner("counter")
        fault = cluster.proxy_of(owner).swallow(of="INCRBY")
        assert await redis.incr("counter") == 2, "the library repeated what ran"
        assert fault.happened == 1
        assert await owner.cli("GET", "counter") == "2"
        proxy = cluster.proxy_of(await cluster.failover(owner))
        before = proxy.commands.count("GET")
        assert await redis.get("counter") == "2"
        assert proxy.commands.count("GET") == before + 1
