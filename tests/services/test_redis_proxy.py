"""Faults of a real server's answers: what was swallowed really ran, what was replaced did not, and answers stay with their commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import TimeoutError as TookTooLong

from tests.services.answer_faults import Then
from tests.services.redis_proxy import ERRORS, RedisProxy
from tests.services.redis_server import RedisServer

BOTH_PROTOCOLS = pytest.mark.parametrize("protocol", [2, 3])


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[RedisProxy]:
    async with RedisProxy(redis_server.address) as proxy:
        yield proxy


def client(proxy: RedisProxy, *, retries: int = 0, **options: Any) -> Redis:
    options.setdefault("socket_timeout", 5)
    return Redis.from_url(proxy.url, decode_responses=True, retry=Retry(NoBackoff(), retries), **options)


async def run(redis: Redis, *command: str | int) -> Any:
    return await redis.execute_command(*command)  # type: ignore[no-untyped-call]


@BOTH_PROTOCOLS
@pytest.mark.parametrize(
    ("then", "error"), [(Then.RESET, Unreachable), (Then.CLOSE, Unreachable), (Then.HANG, TookTooLong)]
)
async def test_f6_a_command_whose_answer_was_swallowed_ran(
    proxy: RedisProxy, redis_server: RedisServer, protocol: int, then: Then, error: type[Exception]
) -> None:
    async with client(proxy, protocol=protocol, socket_timeout=0.2) as redis:
        await redis.incr("counter")
        fault = proxy.swallow(then=then)
        with pytest.raises(error):
            await redis.incr("counter")
        assert fault.happened == 1
        assert await redis_server.cli("GET", "counter") == "2"
        assert await redis.incr("counter") == 3


async def test_redis_py_that_repeats_by_itself_runs_it_twice(proxy: RedisProxy) -> None:
    """Why a repeated change must come back as the first outcome: the library does this without a word."""
    async with client(proxy, retries=3) as redis:
        fault = proxy.swallow(of="INCRBY")
        assert await redis.incr("counter") == 2
        assert fault.happened == 1
        assert proxy.commands.count("INCRBY") == 2


async def test_only_the_named_command_and_after_those_skipped(proxy: RedisProxy, redis_server: RedisServer) -> None:
    async with client(proxy) as redis:
        fault = proxy.swallow(2, skip=1, of=["evalsha", "eval"])
        await redis.set("a", 1)
        await run(redis, "EVAL", "return 1", 0)
        await redis.get("a")
        for number in range(2):
            with pytest.raises(Unreachable):
                await run(redis, "EVAL", "return redis.call('INCR', KEYS[1])", 1, "ran")
            assert fault.happened == number + 1
        assert await run(redis, "EVAL", "return 3", 0) == 3
    await fault.over()
    assert await redis_server.cli("GET", "ran") == "2"


@BOTH_PROTOCOLS
async def test_of_a_pipeline_the_answers_before_the_fault_arrive(
    proxy: RedisProxy, redis_server: RedisServer, protocol: int
) -> None:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"HELLO %d\r\n" % protocol)
    await reader.readuntil(b"modules\r\n*0\r\n")
    proxy.swallow(skip=2, then=Then.CLOSE)
    writer.write(b"INCR a\r\nINCR b\r\nINCR c\r\nINCR d\r\n")
    assert await asyncio.wait_for(reader.read(), 5) == b":1\r\n:1\r\n"
    writer.close()
    await writer.wait_closed()
    assert [await redis_server.cli("GET", key) for key in "abcd"] == ["1"] * 4


async def test_half_of_an_answer(proxy: RedisProxy) -> None:
    async with client(proxy) as redis:
        await redis.set("text", "x" * 1000)
        fault = proxy.truncate(after=500, of="GET")
        with pytest.raises(Unreachable):
            await redis.get("text")
        assert fault.happened == 1
        assert await redis.get("text") == "x" * 1000


@pytest.mark.parametrize("name", sorted(ERRORS))
async def test_f11_an_error_in_place_of_the_answer(proxy: RedisProxy, redis_server: RedisServer, name: str) -> None:
    async with client(proxy) as redis:
        await redis.set("a", 1)
        fault = proxy.answer(name, times=2, of="SET")
        for _ in range(2):
            with pytest.raises((ResponseError, BusyLoadingError)) as caught:
                await redis.set("a", 2)
            assert str(caught.value) in ERRORS[name]
        assert fault.happened == 2
        assert await redis_server.cli("GET", "a") == "1", "as with the real error it did not run"
        assert await redis.set("a", 3)


async def test_f11_errors_are_those_that_redis_py_knows(proxy: RedisProxy) -> None:
    known = {
        "READONLY": ReadOnlyError,
        "LOADING": BusyLoadingError,
        "NOSCRIPT": NoScriptError,
        "OOM": OutOfMemoryError,
    }
    async with client(proxy) as redis:
        for name, error in known.items():
            proxy.answer(name)
            with pytest.raises(error):
                await redis.get("a")


async def test_f11_real_errors_begin_as_ours(redis_server: RedisServer) -> None:
    """Those that this server can be brought to say without harm."""
    with pytest.raises(NoScriptError) as caught:
        await redis_server.cli("EVALSHA", "0" * 40, 0)
    assert str(caught.value) in ERRORS["NOSCRIPT"]


async def test_an_error_of_a_command_that_ran(proxy: RedisProxy, redis_server: RedisServer) -> None:
    async with client(proxy) as redis:
        fault = proxy.answer("CLUSTERDOWN The cluster is down", executed=True)
        with pytest.raises(ResponseError):
            await redis.set("a", 2)
        assert fault.happened == 1
        assert await redis_server.cli("GET", "a") == "2"


async def test_in_a_pipeline_errors_keep_their_place(proxy: RedisProxy) -> None:
    async with client(proxy) as redis:
        proxy.answer("OOM", times=None, of="SET")
        pipeline = redis.pipeline(transaction=False)
        for number in range(50):
            pipeline.incr("counter")
            pipeline.set(f"key {number}", number)
        answers: Sequence[Any] = await pipeline.execute(raise_on_error=False)
        assert answers[::2] == [*range(1, 51)]
        assert all(isinstance(answer, OutOfMemoryError) for answer in answers[1::2])


async def test_many_at_once_through_delays(proxy: RedisProxy) -> None:
    proxy.slow(0.001, jitter=0.005)
    async with client(proxy, max_connections=20) as redis:

        async def own(number: int) -> None:
            for turn in range(10):
                assert await run(redis, "ECHO", f"{number}/{turn}") == f"{number}/{turn}"

        await asyncio.gather(*(own(number) for number in range(20)))
    assert proxy.seen.delayed > 0


@BOTH_PROTOCOLS
async def test_notices_are_lost_and_doubled(proxy: RedisProxy, redis_server: RedisServer, protocol: int) -> None:
    async with client(proxy, protocol=protocol) as redis, redis.pubsub() as subscriber:
        await subscriber.subscribe("one", "two")
        await subscriber.psubscribe("pattern*")
        lost, doubled = proxy.lose_notices(), proxy.double_notices(skip=1)

        heard: list[str] = []

        async def listen(count: int) -> list[str]:
            async with asyncio.timeout(5):
                while len(heard) < count:
                    message = await subscriber.get_message(ignore_subscribe_messages=True, timeout=1)
                    if message is not None:
                        heard.append(message["data"])
            return heard

        for channel, text in [("one", "lost"), ("two", "first"), ("pattern", "twice"), ("one", "last")]:
            await redis_server.cli("PUBLISH", channel, text)
        assert await listen(4) == ["first", "twice", "twice", "last"]
        assert (lost.happened, doubled.happened) == (1, 1)
        await subscriber.ping()
        await redis.set("a", 1)
        assert await redis.get("a") == "1"


async def test_a_subscriber_is_reset(proxy: RedisProxy) -> None:
    async with client(proxy) as redis, redis.pubsub() as subscriber:
        await subscriber.subscribe("one")
        assert (await subscriber.get_message(timeout=1) or {})["type"] == "subscribe"
        proxy.reset()
        proxy.refuse()
        with pytest.raises(Unreachable):
            await subscriber.get_message(timeout=1)


async def test_clear_ends_every_fault(proxy: RedisProxy, redis_server: RedisServer) -> None:
    async with client(proxy) as redis, redis.pubsub() as subscriber:
        await subscriber.subscribe("one")
        proxy.answer("OOM", times=None)
        proxy.swallow(times=None)
        proxy.lose_notices(times=None)
        proxy.black_hole()
        proxy.clear()
        assert await redis.set("a", 1)
        await redis_server.cli("PUBLISH", "one", "heard")
        async with asyncio.timeout(5):
            while (message := await subscriber.get_message(ignore_subscribe_messages=True, timeout=1)) is None:
                pass
        assert message["data"] == "heard"
