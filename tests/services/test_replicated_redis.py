"""A replica that lags and is promoted really lacks what the primary had answered for; the address stays."""

from __future__ import annotations

import pytest
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError, ResponseError

from tests.services.fixtures import StartReplicated
from tests.services.waiting import until

AFTER_A_RESET = Retry(NoBackoff(), 3)


async def test_the_replica_follows(start_replicated: StartReplicated) -> None:
    pair = await start_replicated()
    async with pair.client(decode_responses=True) as redis:
        await redis.set("key", "value")
        await pair.caught_up()
        assert await pair.replica.cli("GET", "key") == "value"
        assert (await redis.info("replication"))["connected_slaves"] == 1
    with pytest.raises(ReadOnlyError):
        await pair.replica.cli("SET", "key", "other")


async def test_f10_what_a_lagging_replica_does_not_have_is_lost_when_it_is_promoted(
    start_replicated: StartReplicated,
) -> None:
    pair = await start_replicated()
    async with pair.client(decode_responses=True, retry=AFTER_A_RESET) as redis:
        await redis.set("early", 1)
        await pair.caught_up()
        pair.pause_replication()
        await redis.set("late", 1)
        assert await redis.wait(1, 100) == 0, "WAIT tells"
        assert await pair.lag() > 0
        port = pair.proxy.port
        await pair.promote()
        assert (pair.proxy.port, await redis.get("early"), await redis.get("late")) == (port, "1", None)
        await redis.set("new", 1)
        assert await pair.replica.cli("GET", "late") == "1", "the former primary still has it"

        await pair.rejoin()
        assert sorted(await pair.replica.cli("KEYS", "*")) == ["early", "new"]
        assert await pair.replica.cli("GET", "late") is None
        await redis.set("key", 2)
        assert await redis.wait(1, 5_000) == 1


async def test_a_pause_that_ends_loses_nothing(start_replicated: StartReplicated) -> None:
    pair = await start_replicated()
    pair.pause_replication()
    await pair.primary.cli("SET", "key", "value")
    assert await pair.replica.cli("GET", "key") is None
    pair.resume_replication()
    await pair.caught_up()
    assert await pair.replica.cli("GET", "key") == "value"


async def test_f10_with_a_dead_primary(start_replicated: StartReplicated) -> None:
    pair = await start_replicated(appendonly=True, appendfsync="always")
    dead = pair.primary
    async with pair.client(decode_responses=True, retry=AFTER_A_RESET) as redis:
        await redis.set("key", 1)
        await pair.caught_up()
        dead.kill()
        await pair.promote()
        assert await redis.incr("key") == 2
        await dead.start()
        assert await dead.cli("GET", "key") == "1"
        await pair.rejoin()
        assert await dead.cli("GET", "key") == "2"


async def test_with_min_replicas_to_write_a_primary_alone_refuses(start_replicated: StartReplicated) -> None:
    pair = await start_replicated(min_replicas_to_write=1, min_replicas_max_lag=2)

    async def accepted() -> bool:
        return bool(await pair.primary.cli("SET", "key", 1))

    async def refused() -> bool:
        try:
            return not await pair.primary.cli("SET", "key", 2)
        except ResponseError as error:
            return "NOREPLICAS" in str(error) or "Not enough good replicas" in str(error)

    await until(accepted, "it refused with its replica at hand")
    pair.pause_replication()
    await until(refused, "it went on alone")
