"""Redis' clock is wrong, and lives that end: F44, F15 (semantics §3, §7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.device import Device, doc
from tests.faults.world import crowded, sidecar, sound
from tests.integration.world import begin, chats_of, say, until
from tests.services.fixtures import StartRedis
from tests.services.redis_server import RedisServer

_HOUR = 3600


@pytest.fixture
def clock(faketime: str, tmp_path: Path) -> tuple[tuple[str, ...], Callable[[int], None]]:
    """What a server is to run under, and what moves its clock, in seconds from now."""
    file = tmp_path / "clock"

    def set_to(seconds: int) -> None:
        file.write_text(f"{seconds:+d}\n")

    set_to(0)
    told = (f"LD_PRELOAD={faketime}", f"FAKETIME_TIMESTAMP_FILE={file}", "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1")
    return ("env", *told), set_to


async def _ahead(redis: RedisServer) -> float:
    """Seconds by which its clock is ahead of ours."""

    seconds, _ = await redis.cli("TIME")
    return int(seconds) - time.time()


@pytest.mark.parametrize("jumps", [(_HOUR, 0), (-_HOUR, 0)], ids=["forth and back", "back and forth"])
async def test_f44_redis_clock_jumps_by_an_hour(
    start_redis: StartRedis,
    tmp_path: Path,
    clock: tuple[tuple[str, ...], Callable[[int], None]],
    jumps: tuple[int, ...],
) -> None:
    """F44: versions, order and epochs keep rising, and what is due is written down; only lives of half an hour may end early,
    and then the devices bring back what they hold."""
    under, set_to = clock
    redis = await start_redis(under=under)
    async with crowded(tmp_path, redis.url) as (one, crowd):
        await crowd.live(0.6)
        for seconds in jumps:
            crowd.losses += 1
            set_to(seconds)
            await crowd.live(0.6)
            assert abs(await _ahead(redis) - seconds) < 60, "the fault happened"
        await crowd.settle(one, 40)
        await sound(redis)


async def test_f44_a_draft_is_written_down_though_the_clock_went_back(
    start_redis: StartRedis, tmp_path: Path, clock: tuple[tuple[str, ...], Callable[[int], None]]
) -> None:
    """F44: at most ten seconds after the first edit (scaled to one), not an hour and ten seconds."""
    under, set_to = clock
    redis = await start_redis(under=under)
    drafts = {"debounce": "1s", "max_debounce": "1s"}
    async with sidecar(tmp_path, redis.url, drafts=drafts) as server, Device(server.url) as device:
        await say(device, "c1", "m1", doc("m"))
        await device.event("message_update")
        edit = {"chatId": "c1", "content": doc("due"), "basedOnVersion": 0}
        assert (await device.ask("draft_update", edit))["payload"]["version"] == 1
        set_to(-_HOUR)
        assert (await device.event("chat_stored", lambda event: event["version"] == 1))["version"] == 1
        assert abs(await _ahead(redis) + _HOUR) < 60, "the fault happened"


async def test_f15_drafts_live_as_long_as_a_device_is_connected(start_redis: StartRedis, tmp_path: Path) -> None:
    """F15, S22: 30 minutes are scaled to two seconds. On whichever process the device is, its owner's drafts live on, all of them;
    once it has gone they end and leave nothing behind, and come back from the device, their versions still rising."""
    redis = await start_redis()
    chats = {"draft_ttl": "2s", "ttl": "2s"}
    async with (
        sidecar(tmp_path, redis.url, chats=chats) as one,
        sidecar(tmp_path, redis.url, name="other", chats=chats) as other,
    ):
        async with Device(one.url) as device:
            await device.sync()
            for chat in ("c1", "c2"):
                await begin(device, chat, doc(chat))
            cursor = (await device.sync())[-1]["cursor"]
        async with Device(other.url) as idle:
            await asyncio.sleep(7)  # with two visits of what looks after lives
            assert [event for event in idle.events if event["type"] != "pong"] == []
            kept = chats_of(await idle.sync())
            assert {chat["draft"]["content"][0]["content"][0]["text"] for chat in kept.values()} == {"c1", "c2"}
            await sound(redis)

        async def over() -> bool:
            async with redis.client() as client:
                for name in [name async for name in client.scan_iter(match="sidecar:*:person:*", count=1000)]:
                    if any(field[:2] == b"c:" for field in await client.hkeys(name)):
                        return False
            return True

        await until(over, 20)
        await sound(redis)
        async with Device(one.url) as back:
            held = [
                {"id": chat["id"], "version": 1, "op": chat["draft_op"], "titleVersion": 0, "messagesVersion": 0}
                for chat in kept.values()
            ]
            frames = await back.sync(cursor=cursor, chats=held)
            assert sorted(frames[-1]["missing"]) == sorted(kept)
            assert frames[-1]["deleted"] == []
            draft = {"content": doc("c1"), "state": "edited", "version": 1, "op": kept[back.full("c1")]["draft_op"]}
            restored = await back.ask("chat_restore", {"chatId": "c1", "draft": draft, "messagesVersion": 0})
            assert restored["type"] == "chat_restored"
            edit = {"chatId": "c1", "content": doc("more"), "basedOnVersion": 1}
            assert (await back.ask("draft_update", edit))["payload"]["version"] == 2
