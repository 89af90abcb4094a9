"""A server that is away, slow, stopped, flapping or full."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from plugins.cache.redis_layout import Keys
from plugins.cache.redis_link import Link
from plugins.cache.redis_settings import ScriptSettings
from sidecar.changes import Accepted, ChatInCache, PutDraft
from sidecar.errors import StartRefused, Unavailable
from sidecar.testing.cache_writer import Writer, sealed
from tests.conftest import Serve
from tests.device import Device
from tests.faults.cache import cache_at
from tests.faults.world import get, ready
from tests.integration.world import until
from tests.services.answer_faults import Then
from tests.services.fixtures import StartRedis
from tests.services.redis_proxy import RedisProxy
from tests.services.redis_server import RedisServer


async def _until_it_works(alice: Writer, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while True:
            try:
                await alice.head()
                return
            except Unavailable:
                await asyncio.sleep(0.02)


async def test_f1_a_server_that_is_down_at_the_start_is_waited_for(serve: Serve, start_redis: StartRedis) -> None:
    """F1: up, alive, not ready; refused with a retry time; and at work without a restart once Redis is there (row: 20 s later)."""
    server = await start_redis()
    await server.stop()
    options = {"url": server.url, "timeout": "300ms"}
    async with serve(cache={"use": "redis", "options": options}) as sidecar:
        assert (await get(sidecar, "/livez"))[0] == 200
        status, body = await get(sidecar, "/readyz")
        assert status == 503
        assert body["parts"]["cache"]["state"] != "ok"
        await server.start()
        await until(lambda: ready(sidecar), 10)
        async with Device(sidecar.url, "alice") as alice:
            await alice.sync()


async def test_f2_what_was_acknowledged_before_kill_9_is_there_afterwards(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    """F2, F12: with appendfsync always; row: 100 writers. What was under way says `unavailable`, and is whole or not there."""
    server = await start_redis(appendonly=True, appendfsync="always")
    async with cache_at(server.url, tmp_path, timeout=5) as cache:
        writers = [Writer(cache, f"person {number}") for number in range(100)]
        acked: dict[str, int] = {}
        refused = 0

        async def write(alice: Writer) -> None:
            nonlocal refused
            version = 0
            try:
                while True:
                    outcome = await alice.commit(alice.change(PutDraft(sealed(f"text {version}"), version)))
                    assert isinstance(outcome, Accepted)
                    version = outcome.version
                    acked[alice.user] = version
            except Unavailable:
                refused += 1

        tasks = [asyncio.ensure_future(write(alice)) for alice in writers]
        await until(lambda: sum(acked.values()) >= 500)
        server.kill()
        await asyncio.gather(*tasks)
        assert refused == 100
        await server.start()
        await _until_it_works(writers[0])
        for alice in writers:
            here = await alice.here()
            assert here.version >= acked[alice.user], "acknowledged, and lost"
            assert here.draft == f"text {here.version - 1}".encode(), "half of a change"


async def test_f3_a_stopped_server_answers_late_and_nobody_minds(start_redis: StartRedis, tmp_path: Path) -> None:
    """F3: SIGSTOP (row: 10 s, 100 times): the deadline, then `unavailable`; the loop goes on; late answers belong to nobody."""
    server = await start_redis()
    async with cache_at(server.url, tmp_path, timeout=0.3) as cache:
        alice, bob = Writer(cache), Writer(cache, "bob")
        await alice.draft("alice's")
        await bob.draft("bob's")
        for _ in range(5):
            server.pause()
            began = time.monotonic()
            reads = [asyncio.ensure_future(cache.chats.read(each.user, [each.chat()])) for each in (alice, bob) * 20]
            answers = await asyncio.gather(*reads, return_exceptions=True)
            assert all(isinstance(answer, Unavailable) for answer in answers)
            assert time.monotonic() - began < 5, "each call has a deadline, not each call after the other"
            server.resume()
            await _until_it_works(alice)
            assert (await alice.here()).draft == b"alice's"
            assert (await bob.here()).draft == b"bob's"


async def test_f4_a_slow_server_is_not_flooded(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F4: 200 ms each way with 500 callers: one pipeline after the other on a handful of connections, and a bounded queue."""
    async with RedisProxy(redis_server.address) as proxy, cache_at(proxy.url, tmp_path, timeout=3) as cache:
        writers = [Writer(cache, f"person {number}") for number in range(500)]
        await asyncio.gather(*(each.head() for each in writers))
        proxy.slow(0.2)
        before = proxy.seen.connects
        outcomes = await asyncio.gather(
            *(cache.chats.read(each.user, [each.chat()]) for each in writers), return_exceptions=True
        )
        assert all(outcome == {} for outcome in outcomes)
        assert proxy.connections <= 5
        assert proxy.seen.connects - before <= 3
        monkeypatch.setattr("plugins.cache.redis_lane._WAITING", 50)
        calls = [cache.chats.read(writers[0].user, [writers[0].chat()]) for _ in range(400)]
        told = await asyncio.gather(*calls, return_exceptions=True)
        refused = [each for each in told if isinstance(each, Unavailable) and "too many" in each.reason]
        assert refused, "the queue has an end"
        assert all(each == {} or isinstance(each, Unavailable) for each in told)


async def test_f5_a_flapping_server_is_not_stormed(redis_server: RedisServer, tmp_path: Path) -> None:
    """F5: up and down every 0.2 s (row: 2 s, 5 min): connects a second stay bounded, whatever asks."""
    async with RedisProxy(redis_server.address) as proxy, cache_at(proxy.url, tmp_path, timeout=0.3) as cache:
        alice = Writer(cache)
        await alice.head()
        began, before = time.monotonic(), proxy.seen.connects
        accepted = 0
        async with proxy.flapping(0.2):
            while time.monotonic() - began < 3:
                outcomes = await asyncio.gather(*(alice.head() for _ in range(20)), return_exceptions=True)
                accepted += sum(not isinstance(outcome, BaseException) for outcome in outcomes)
                assert all(isinstance(each, Unavailable) for each in outcomes if isinstance(each, BaseException))
                await asyncio.sleep(0.005)
        assert accepted > 0
        assert (proxy.seen.connects - before) / (time.monotonic() - began) < 60
        await _until_it_works(alice)


async def test_client_pause_is_a_slow_answer(redis_server: RedisServer, tmp_path: Path) -> None:
    """CLIENT PAUSE longer than the deadline: `unavailable`, and the change took place once all the same or not at all."""
    async with cache_at(redis_server.url, tmp_path, timeout=0.3) as cache:
        alice = Writer(cache)
        await alice.draft("a")
        change = alice.change(PutDraft(sealed("b"), 1))
        assert await redis_server.cli("CLIENT", "PAUSE", 900, "ALL") == "OK"
        with pytest.raises(Unavailable):
            await cache.chats.commit(change)
        await asyncio.sleep(0.9)
        await _until_it_works(alice)
        outcome = await cache.chats.commit(change)
        assert isinstance(outcome, Accepted)
        assert outcome.version == 2
        assert (await alice.here()).version == 2


async def test_f9_a_full_server_takes_no_changes_and_goes_on_being_read(
    start_redis: StartRedis, tmp_path: Path
) -> None:
    """F9: maxmemory with noeviction: changes `unavailable`, reading goes on, nothing is half-written, and with room all is well."""
    server = await start_redis(maxmemory="4mb")
    async with cache_at(server.url, tmp_path) as cache:
        writers = [Writer(cache, f"person {number}") for number in range(40)]
        acked: dict[str, int] = {}
        told: list[Unavailable] = []
        for round_ in range(200):
            for alice in writers:
                version = acked.get(alice.user, 0)
                try:
                    outcome = await alice.commit(alice.change(PutDraft(sealed(f"{round_} " + "x" * 20_000), version)))
                    assert isinstance(outcome, Accepted)
                    acked[alice.user] = outcome.version
                except Unavailable as error:
                    told.append(error)
            if len(told) > 20:
                break
        assert len(told) > 20, "it never filled up"
        assert "maxmemory" in told[-1].reason
        for alice in writers:
            if alice.user in acked:
                here = (await cache.chats.read(alice.user, [alice.chat()], use=True))[alice.chat()]
                assert isinstance(here, ChatInCache)
                assert here.version == acked[alice.user]
                assert here.draft is not None
                assert len(here.draft) > 20_000
                await alice.events()
        assert await server.cli("CONFIG", "SET", "maxmemory", "100mb") == "OK"
        for alice in writers:
            assert (await alice.draft("short", acked.get(alice.user, 0))).version == acked.get(alice.user, 0) + 1


@pytest.mark.parametrize(
    ("config", "says", "remedy"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru", "noeviction"),
        ({"requirepass": "other"}, "wants a password|refuses this user", "cache.options.url"),
    ],
)
async def test_f8_a_server_that_cannot_be_used_refuses_the_start(
    config: dict[str, str], says: str, remedy: str, start_redis: StartRedis, tmp_path: Path
) -> None:
    """F8 and the issue: the start is refused, with what is wrong and what mends it."""
    server = await start_redis(**config)
    with pytest.raises(StartRefused, match=says) as refused:
        async with cache_at(f"redis://{server.host}:{server.port}/0", tmp_path):
            pass
    assert remedy in str(refused.value)


async def test_another_number_of_shards_refuses_the_start(redis_server: RedisServer, tmp_path: Path) -> None:
    async with cache_at(redis_server.url, tmp_path, shards=4):
        pass
    with pytest.raises(StartRefused, match=r"4 shards and cache\.options\.shards is 8.*shards: 4"):
        async with cache_at(redis_server.url, tmp_path, shards=8):
            pass


async def test_f5_a_server_that_lets_everybody_in_and_answers_nobody_is_left_alone(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """F5: as a balancer does that has lost its server: the connection is taken, and reset at the first call."""
    async with RedisProxy(redis_server.address) as proxy, cache_at(proxy.url, tmp_path, timeout=0.3) as cache:
        alice = Writer(cache)
        await alice.head()
        fault = proxy.swallow(None, of=("EVALSHA", "EVAL"), then=Then.RESET)
        began, before, refused = time.monotonic(), proxy.seen.connects, 0
        while time.monotonic() - began < 2:
            outcomes = await asyncio.gather(*(alice.head() for _ in range(20)), return_exceptions=True)
            assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
            refused += len(outcomes)
            await asyncio.sleep(0.002)
        assert fault.happened > 1
        assert refused > 10 * fault.happened
        # One lane, doubling from 0.1 s to 1 s: seven or so.
        assert proxy.seen.connects - before <= 15
        proxy.clear()
        await _until_it_works(alice)


async def test_f3_every_call_ends_at_its_own_deadline(start_redis: StartRedis, tmp_path: Path) -> None:
    """F3: also one that waits behind a pipeline which hangs, and behind a connection that does: nobody waits for two deadlines."""
    server = await start_redis()
    async with cache_at(server.url, tmp_path, timeout=1) as cache:
        alice = Writer(cache)
        await alice.head()
        server.pause()
        loop, took = asyncio.get_running_loop(), []

        async def ask(after: float) -> None:
            await asyncio.sleep(after)
            asked = loop.time()
            with pytest.raises(Unavailable):
                await alice.head()
            took.append(loop.time() - asked)

        await asyncio.gather(*(ask(number * 0.05) for number in range(40)))
        server.resume()
        assert max(took) < 1.8, "the second pipeline's deadline would be at two seconds"
        await _until_it_works(alice)


async def test_a_connection_that_nobody_needs_any_more_tells_of_no_trouble(redis_server: RedisServer) -> None:
    """`/readyz` tells how the server fares, and not how a connection fared that only a busy hour needed."""
    keys = Keys("sidecar", 1)
    packed = ScriptSettings(keys, "process").packed(0)
    async with (
        RedisProxy(redis_server.address) as proxy,
        Link(proxy.url, cluster=False, timeout=2, pool=3) as link,
    ):

        async def ask(after: float) -> None:
            await asyncio.sleep(after)
            await link.run("visits", (keys.visits(0),), packed, 1)

        proxy.slow(0.05)
        await asyncio.gather(ask(0), ask(0.02))
        assert len(link.health) == 2, "while one was under way another was made"
        proxy.black_hole()
        told = await asyncio.gather(ask(0), ask(0.02), return_exceptions=True)
        assert all(isinstance(each, Unavailable) for each in told), "the fault happened"
        await until(lambda: all(each.trouble for each in link.health.values()))
        assert link.trouble
        proxy.clear()

        async def works() -> bool:
            try:
                await ask(0)
            except Unavailable:
                return False
            return True

        await until(works)
        assert any(each.trouble for each in link.health.values()), "one of them was not needed again"
        assert link.trouble == ""
