"""The disk of Redis is full, fails, or lost the last bytes: F12, F13, F14 (S30)."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from plugins.cache.redis_chats import RedisChats
from sidecar.changes import Accepted, ChatInCache, PutDraft
from sidecar.errors import Unavailable
from sidecar.testing.cache_writer import Writer, sealed
from tests.device import Device, doc
from tests.faults.careful import SEED
from tests.faults.world import bare_cache, get, sidecar, sound
from tests.integration.world import begin, until
from tests.invariants import broken
from tests.services.fixtures import StartRedis
from tests.services.programs import find_redis
from tests.services.redis_server import RedisServer

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="not promised: only Linux limits another process' files"
)

_DEAF_TO_XFSZ = ("sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh")
"""A write beyond the limit then fails with an error, as on a full disk, instead of ending the process."""


def _appended(redis: RedisServer) -> Path:
    """The file that changes are appended to."""
    [path] = (redis.folder / "appendonlydir").glob("*.incr.aof")
    return path


def _allow(redis: RedisServer, size: int | None) -> None:
    """How large its files may become; None: as large as they like."""
    import resource

    unlimited = resource.RLIM_INFINITY
    resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (unlimited if size is None else size, unlimited))


async def test_f12_a_full_disk_refuses_changes_and_goes_on_being_read(start_redis: StartRedis, tmp_path: Path) -> None:
    """F12: `everysec`: changes are refused cleanly, reading goes on, the fan-out stays; with room again all is well, and whatever
    was accepted survives a restart. The limit on a file's size stands for the row's 6 MB tmpfs: the write fails as there."""
    redis = await start_redis(under=_DEAF_TO_XFSZ, appendonly=True, appendfsync="everysec")
    async with (
        sidecar(tmp_path, redis.url) as server,
        Device(server.url) as one,
        Device(server.url) as two,
    ):
        await one.sync()
        await two.sync()
        await begin(one, "c1", doc("text 1"))
        _allow(redis, _appended(redis).stat().st_size + 60_000)
        version, refused = 1, None
        while refused is None:
            edit = {"chatId": "c1", "content": doc(f"text {version + 1} {'x' * 5000}"), "basedOnVersion": version}
            answer = await one.ask("draft_update", edit)
            if answer["type"] == "draft_updated":
                version = answer["payload"]["version"]
            else:
                refused = answer["payload"]
            assert version < 200
        assert (await redis.info("persistence"))["aof_last_write_status"] == "err", "the fault happened"
        assert (refused["code"], refused["retryable"], refused["details"]) == ("unavailable", True, {"part": "cache"})
        assert "MISCONF" not in str(refused)
        # Reading goes on, for who is there and for who comes with what the log covers.
        page = await two.ask("chats_request", {"ids": ["c1"]})
        assert page["payload"]["chats"][0]["version"] == version
        assert (await two.sync())[-1]["complete"]
        status, body = await get(server, "/readyz")
        assert (status, body["parts"]["cache"]["state"]) != (200, "unavailable")
        again = await one.ask("draft_update", {"chatId": "c1", "content": doc("no"), "basedOnVersion": version})
        assert again["payload"]["code"] == "unavailable"
        await sound(redis)
        # PING is refused too, by a server that listens and publishes all the same: the subscription is not begun anew.
        notices = cast("RedisChats", server.context.parts.cache.chats)._notices
        begun = notices.subscriptions
        await asyncio.sleep(1.2)
        assert (notices.subscribed, notices.subscriptions) == (True, begun)

        _allow(redis, None)
        two.events.clear()

        async def accepted() -> bool:
            edit = {"chatId": "c1", "content": doc("room again"), "basedOnVersion": version}
            return bool((await one.ask("draft_update", edit, "operation-room"))["type"] == "draft_updated")

        await until(accepted, 10)
        assert (await two.event("draft_updated"))["version"] == version + 1, "the fan-out was there all the while"
        await asyncio.sleep(1.1)  # everysec
        redis.kill()
        await redis.start()
        page = {}

        async def read() -> bool:
            nonlocal page
            page = await two.ask("chats_request", {"ids": ["c1"]})
            return bool(page["type"] == "chats_page")

        await until(read, 10)
        [chat] = page["payload"]["chats"]
        assert (chat["version"], chat["draft"]) == (version + 1, doc("room again"))
        await sound(redis)


async def _write_until_it_ends(redis: RedisServer, writers: list[Writer]) -> dict[str, int]:
    """The last version of each that was acknowledged, until the server has gone."""
    acked: dict[str, int] = {}

    async def write(alice: Writer) -> None:
        version = 0
        while True:
            text = sealed(f"text {version} " + "x" * 2000)
            try:
                outcome = await alice.commit(alice.change(PutDraft(text, version)))
            except Unavailable:
                return
            assert isinstance(outcome, Accepted)
            version = acked[alice.user] = outcome.version

    await asyncio.gather(*map(write, writers))
    assert await redis.exited() == 1, "the fault happened: Redis ends rather than acknowledge what it cannot keep"
    return acked


async def _all_there(writers: list[Writer], acked: dict[str, int]) -> None:
    for alice in writers:

        async def answers(alice: Writer = alice) -> bool:
            try:
                await alice.head()
            except Unavailable:
                return False
            return True

        await until(answers, 10)
        here = await alice.here()
        assert here.version >= acked[alice.user], "acknowledged, and lost"
        assert (here.draft or b"").startswith(f"text {here.version - 1} ".encode()), "half of a change"


async def test_f12_a_full_disk_ends_a_server_that_must_sync(start_redis: StartRedis, tmp_path: Path) -> None:
    """F12: `always`: Redis ends, and then it is F2: whatever was acknowledged is there once it has room."""
    redis = await start_redis(under=_DEAF_TO_XFSZ, appendonly=True, appendfsync="always")
    async with bare_cache(tmp_path, redis.url, timeout="5s") as (_, cache):
        writers = [Writer(cache, f"person {number}") for number in range(10)]
        _allow(redis, _appended(redis).stat().st_size + 300_000)
        acked = await _write_until_it_ends(redis, writers)
        assert len(acked) == len(writers)
        await redis.start()
        await _all_there(writers, acked)
        await sound(redis)


async def test_f13_a_sync_that_fails_ends_a_server_that_must_sync(
    start_redis: StartRedis, strace: str, tmp_path: Path
) -> None:
    """F13: fsync fails with EIO (strace): as F12."""
    told = tmp_path / "strace"
    tracer = (strace, "-D", "-f", "-o", str(told), "-e", "inject=fdatasync:error=EIO:when=60+")
    redis = await start_redis(under=tracer, appendonly=True, appendfsync="always")
    async with bare_cache(tmp_path, redis.url, timeout="5s") as (_, cache):
        writers = [Writer(cache, f"person {number}") for number in range(5)]
        acked = await _write_until_it_ends(redis, writers)
        assert "INJECTED" in told.read_text()
        redis._process._command = redis._process._command[len(tracer) :]  # the disk was replaced
        await redis.start()
        await _all_there([alice for alice in writers if alice.user in acked], acked)
        await sound(redis)


def _ok_up_to(program: Path, whole: bytes, size: int, folder: Path) -> int:
    """How much of a file that was cut there `redis-check-aof` takes."""
    path = folder / f"cut-{size}.aof"
    path.write_bytes(whole[:size])
    done = subprocess.run([str(program), str(path)], capture_output=True, text=True, check=False)
    path.unlink()
    for word in (done.stdout + done.stderr).replace(",", " ").split():
        if word.startswith("ok_up_to="):
            return int(word.removeprefix("ok_up_to="))
    raise AssertionError(done.stdout + done.stderr)


async def test_f14_a_torn_tail_is_all_or_nothing(start_redis: StartRedis, tmp_path: Path) -> None:
    """F14, S30: a change's effects stand in the file as one transaction: after any cut it is there or it is not, never by half.

    Scaled from every byte: Redis' own checker is asked about both sides of every command's beginning and every 13th byte, and the
    server is started on a dozen of such files, by chance (`FAULT_SEED`).
    """
    redis = await start_redis(appendonly=True, appendfsync="always", aof_use_rdb_preamble=False)
    async with bare_cache(tmp_path, redis.url) as (_, cache):
        alice = Writer(cache)
        await alice.draft("a draft")
        await alice.send("m1")
        await alice.draft("another", 1)
        before = _appended(redis).stat().st_size
        # A message that consumes the draft: text, message, log, outcome and outbox entry, all in one step.
        sent = await alice.accepted(alice.message("m2", draft_version=2))
        assert sent.consumed
    path = _appended(redis)
    redis.kill()
    whole = path.read_bytes()
    record = whole[before:]
    assert record.count(b"\r\nMULTI\r\n") >= 1
    first = before + record.index(b"*1\r\n$5\r\nMULTI")
    end = before + record.index(b"*1\r\n$4\r\nEXEC") + len(b"*1\r\n$4\r\nEXEC\r\n")
    block = whole[first:end]
    assert block.count(b"HSET") >= 2, "the whole step is one transaction"

    checker = tmp_path / "redis-check-aof"
    checker.symlink_to(find_redis().path)
    boundaries = [first + place for place in range(len(block)) if block[place : place + 1] == b"*"]
    sizes = sorted({*boundaries, *(place + 1 for place in boundaries), *range(first, end, 13), end - 1, end})
    loop = asyncio.get_running_loop()
    for at in range(0, len(sizes), 64):
        told = await asyncio.gather(
            *(loop.run_in_executor(None, _ok_up_to, checker, whole, size, tmp_path) for size in sizes[at : at + 64])
        )
        for size, taken in zip(sizes[at : at + 64], told, strict=True):
            assert taken == (end if size == end else first), f"cut at {size}"

    chance = random.Random(SEED)
    cuts = sorted({first, end - 1, end, *chance.sample(boundaries, 6), *chance.sample(range(first, end), 6)})
    for size in cuts:
        path.write_bytes(whole[:size])
        await redis.start()
        async with redis.client() as client:
            assert await broken(client) == [], f"cut at {size}"
        async with bare_cache(tmp_path, redis.url) as (_, cache):
            found = (await cache.chats.read(alice.user, [alice.chat()]))[alice.chat()]
            assert isinstance(found, ChatInCache)
            after = (found.version, found.draft_state, len(found.messages)) == (3, "consumed", 2)
            assert after or (found.version, found.draft_state, len(found.messages)) == (2, "edited", 1), found
            assert after == (size >= end), f"cut at {size}"
        redis.kill()
