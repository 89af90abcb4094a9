"""The redis-server of the tests is a real one, keeps its port, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as TookTooLong

from tests.services.fixtures import StartRedis
from tests.services.killed_tests import killed_tests_leave_nothing
from tests.services.ports import ReservedPort
from tests.services.process import program_of
from tests.services.programs import Missing, find_redis
from tests.services.redis_server import RedisServer


async def test_the_shared_server_is_empty_for_the_first(redis_server: RedisServer) -> None:
    async with redis_server.client() as redis:
        assert await redis.dbsize() == 0
        await redis.set("left behind", 1)
        assert await redis.script_load("return 1") == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"


async def test_the_shared_server_is_empty_for_the_next(redis_server: RedisServer) -> None:
    async with redis_server.client() as redis:
        assert await redis.dbsize() == 0
        assert await redis.script_exists("e0e1f9fabfc9d4800c877a703b823ac0578ff8db") == [False]


async def test_redis_is_of_the_version_that_the_docs_name(redis_server: RedisServer) -> None:
    assert tuple(map(int, (await redis_server.info("server"))["redis_version"].split("."))) >= (7,)


async def test_an_orderly_restart_keeps_port_and_data(start_redis: StartRedis) -> None:
    server = await start_redis(appendonly=True, appendfsync="everysec")
    port, pid = server.port, server.pid
    await server.cli("SET", "kept", "yes")
    assert await server.stop() == 0
    assert not server.running
    with pytest.raises(Unreachable):
        await server.cli("PING")
    await server.start()
    assert (server.port, await server.cli("GET", "kept")) == (port, "yes")
    assert server.pid != pid


async def test_kill_9_keeps_what_was_appended_and_always_synced(start_redis: StartRedis) -> None:
    server = await start_redis(appendonly=True, appendfsync="always")
    for number in range(100):
        await server.cli("RPUSH", "list", number)
    server.kill()
    assert not server.running
    await server.start()
    assert await server.cli("LLEN", "list") == 100


async def test_kill_9_without_a_file_keeps_nothing(start_redis: StartRedis) -> None:
    server = await start_redis()
    await server.cli("SET", "lost", "yes")
    server.kill()
    await server.start()
    assert await server.cli("GET", "lost") is None


async def test_a_paused_server_answers_nothing_and_then_all(start_redis: StartRedis) -> None:
    server = await start_redis()
    once = Retry(NoBackoff(), 0)
    async with server.client(socket_timeout=0.1, retry=once) as impatient, server.client() as patient:
        await patient.get("counter")
        server.pause()
        with pytest.raises(TookTooLong):
            await impatient.get("counter")
        late = asyncio.ensure_future(patient.incr("counter"))
        done, _ = await asyncio.wait([late], timeout=0.1)
        assert not done
        server.resume()
        assert await late == 1


async def test_a_paused_server_can_be_stopped_and_killed(start_redis: StartRedis) -> None:
    one, other = await asyncio.gather(start_redis(), start_redis())
    one.pause()
    assert await one.stop() == 0
    other.pause()
    other.kill()
    assert not other.running


async def test_any_directive_can_be_set(start_redis: StartRedis) -> None:
    server = await start_redis(
        maxmemory="2mb", maxmemory_policy="allkeys-lru", save="3600 1", requirepass="secret", aof_use_rdb_preamble=False
    )
    settings = await server.settings()
    assert settings["maxmemory"] == str(2 * 1024 * 1024)
    assert settings["maxmemory-policy"] == "allkeys-lru"
    assert (settings["save"], settings["aof-use-rdb-preamble"]) == ("3600 1", "no")
    assert ":secret@" in server.url


async def test_a_server_without_room_refuses_writes(start_redis: StartRedis) -> None:
    server = await start_redis(maxmemory="1500kb")
    async with server.client() as redis:
        with pytest.raises(OutOfMemoryError):  # noqa: PT012 any of them
            for number in range(10_000):
                await redis.set(f"filling {number}", b"x" * 10_000)
        assert await redis.get("filling 0") == b"x" * 10_000


async def test_a_wrong_directive_is_said_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no-such-directive"):
        async with RedisServer(tmp_path, no_such_directive=1):
            raise RuntimeError("it started")


async def test_a_disk_that_fails_ends_a_server_that_must_sync(
    start_redis: StartRedis, strace: str, tmp_path: Path
) -> None:
    """What F13 needs: strace makes fdatasync fail from the third on."""
    tracer = (strace, "-D", "-f", "-o", str(tmp_path / "strace"), "-e", "inject=fdatasync:error=EIO:when=3+")
    server = await start_redis(under=tracer, appendonly=True, appendfsync="always")
    assert program_of(server.pid) == "redis-server"
    with pytest.raises(Unreachable):  # noqa: PT012 any of them
        for number in range(100):
            await server.cli("SET", "key", number)
    assert await server.exited() == 1
    assert "INJECTED" in (tmp_path / "strace").read_text()


async def test_a_port_is_kept_for_its_server(start_redis: StartRedis) -> None:
    server = await start_redis()
    server.kill()
    others = [ReservedPort() for _ in range(500)]
    assert server.port not in {other.number for other in others}
    for other in others:
        other.close()
    await server.start()


_TESTS_THAT_ARE_KILLED = """
import asyncio, sys
from pathlib import Path
from tests.services.redis_server import RedisServer

async def main():
    async with RedisServer(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="not promised: only Linux ends a process with the one that started it"
)
@pytest.mark.usefixtures("_redis_program")
async def test_killed_tests_leave_no_server(tmp_path: Path) -> None:
    await killed_tests_leave_nothing(_TESTS_THAT_ARE_KILLED, tmp_path, "redis-server")


def _stand_in(folder: Path, says: str) -> Path:
    path = folder / "redis-server"
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("says", "why"), [("Redis server v=6.2.14 sha=0", "Too old: redis-server 6.2.14"), ("hello", "no Redis or Valkey")]
)
def test_another_program_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, why: str) -> None:
    monkeypatch.setenv("SIDECAR_TEST_REDIS", str(_stand_in(tmp_path, says)))
    with pytest.raises(Missing, match=why):
        find_redis()


def test_valkey_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_TEST_REDIS", str(_stand_in(tmp_path, "Valkey server v=8.0.1 sha=0")))
    assert find_redis().description == f"valkey-server 8.0.1: {tmp_path}/redis-server"


def test_where_there_is_none_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIDECAR_TEST_REDIS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="make services"):
        find_redis()
