"""Redis lost everything, or everything of somebody: F7, F8 (S20, S21, S67; semantics §2, §6)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.ids import hash_user
from tests.device import Device, doc
from tests.faults.careful import SEED, Crowd
from tests.faults.world import crowded, sidecar, sound
from tests.integration.world import begin, chats_of, named, of_chat, restore_of, store_away, until
from tests.services.fixtures import StartRedis
from tests.services.redis_server import RedisServer


@pytest.mark.parametrize("how", ["FLUSHALL", "restart"])
async def test_f7_emptied_under_ten_devices(start_redis: StartRedis, tmp_path: Path, how: str) -> None:
    """F7: everybody is told `epoch_changed`, brings back what they hold, and goes on; nothing that was typed is gone.

    Scaled: twice, with ten devices of two people on two sidecars. `FAULT_SEED=7` plays another run.
    """
    redis = await start_redis()
    async with crowded(tmp_path, redis.url, 5) as (one, crowd):
        for _ in range(2):
            await crowd.live(0.8)
            await crowd.settle(one)
            living = asyncio.create_task(crowd.live(1.0, messages=False))
            await asyncio.sleep(0.4)
            crowd.losses += 1
            if how == "FLUSHALL":
                await redis.cli("FLUSHALL")
            else:
                await redis.restart()
            await crowd.lost()
            await living
            await crowd.live(0.4)
            await crowd.settle(one)
            await sound(redis)


async def test_f7_nobody_is_shown_nothing(start_redis: StartRedis, tmp_path: Path) -> None:
    """F7, S20, S21: the drafts are `missing` and never `deleted`, no frame clears them, and a restore brings the revision back."""
    redis = await start_redis()
    async with sidecar(tmp_path, redis.url) as server, Device(server.url) as one, Device(server.url) as two:
        for device in (one, two):
            await device.sync()
        await begin(one, "c1", doc("a draft"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("another"), "basedOnVersion": 1}, "operation-2")
        await two.event("draft_updated")
        two.events.clear()
        before = one.ready["epoch"]
        await redis.cli("FLUSHALL")
        for device in (one, two):
            assert (await device.event("resync_required"))["reason"] == "epoch_changed"
        frames = await two.sync(chats=[named("c1", 2, op="operation-2")])
        assert frames[-1]["cursor"].partition(".")[0] > before, "epochs sort by their time"
        assert [frame["missing"] for frame in frames if frame["missing"]] == [[two.full("c1")]]
        assert not any(frame["deleted"] for frame in frames)
        assert chats_of(frames) == {}
        draft = {"content": doc("another"), "state": "edited", "version": 2, "op": "operation-2"}
        restored = await two.ask("chat_restore", {"chatId": "c1", "draft": draft, "messagesVersion": 0})
        assert (restored["type"], restored["payload"]["chat"]["version"]) == ("chat_restored", 2)
        await one.sync(chats=[named("c1", 2, op="operation-2")])
        further = {"chatId": "c1", "content": doc("more"), "basedOnVersion": 2, "basedOnOp": "operation-2"}
        assert (await one.ask("draft_update", further))["payload"]["version"] == 3, "versions go on rising"
        assert not [event for event in one.events if event["type"] in ("chat_deleted", "draft_updated")]
        await sound(redis)


async def test_f7_what_is_sent_right_after_it_is_stored(start_redis: StartRedis, tmp_path: Path) -> None:
    """F7: with the cache went who listens to the outbox. A message that is accepted a moment later is delivered all the same,
    and so are those that were accepted before and not stored: their device sends them again."""
    redis = await start_redis()
    async with sidecar(tmp_path, redis.url) as server, Device(server.url) as one, Device(server.url) as two:
        await one.sync()
        await two.sync()
        with store_away(server, reads=False) as refused:
            first = {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("before")}
            assert (await one.ask("message_send", first))["type"] == "message_accepted"
            await until(lambda: bool(refused))
            await redis.cli("FLUSHALL")
            second = {"tempChatId": "c2", "clientMessageId": "m2", "content": doc("after")}
            assert (await two.ask("message_send", second))["type"] == "message_accepted"
            await one.event("resync_required")
            assert two.full("c1") not in chats_of(await one.sync())
            again = await one.ask("message_send", first)
            assert again["payload"]["message"]["status"] == "sent"
        for device in (one, two):
            for chat in ("c1", "c2"):
                await device.event("message_update", of_chat(device.full(chat)))
        await sound(redis)


async def _keys_of(redis: RedisServer, user: str) -> list[str]:
    async with redis.client(decode_responses=True) as client:
        return [name async for name in client.scan_iter(match=f"sidecar:*{user}*", count=1000)]


async def test_f8_one_persons_keys_are_gone(start_redis: StartRedis, tmp_path: Path) -> None:
    """F8: as F7, for this person alone; the other one is told of nothing."""
    redis = await start_redis()
    async with crowded(tmp_path, redis.url) as (one, crowd):
        await crowd.live(0.8)
        await crowd.settle(one)
        alice = [client for client in crowd.clients if client.user == hash_user("alice")]
        bobs_epoch = {client.tab.epoch for client in crowd.clients if client not in alice}
        living = asyncio.create_task(crowd.live(1.0, messages=False))
        await asyncio.sleep(0.4)
        crowd.losses += 1
        names = await _keys_of(redis, hash_user("alice"))
        assert len(names) >= 4
        assert await redis.cli("DEL", *names) == len(names)
        await crowd.lost(alice)
        await living
        await crowd.settle(one)
        assert {client.tab.epoch for client in crowd.clients if client not in alice} == bobs_epoch
        await sound(redis)


@pytest.mark.parametrize("kind", ["person", "log", "outcomes", "tokens", "lru", "ends"])
async def test_f8_a_single_key_is_gone(start_redis: StartRedis, tmp_path: Path, kind: str) -> None:
    """F8: whichever key of a person is evicted, everybody ends with every text, and versions go on rising."""
    redis = await start_redis()
    async with sidecar(tmp_path, redis.url) as one, Crowd(["alice"], 3, one.url, seed=SEED) as crowd:
        await crowd.live(0.8)
        await crowd.settle(one)
        crowd.losses += 1
        key = next((name for name in await _keys_of(redis, hash_user("alice")) if f":{kind}:" in name), None)
        if key is None:
            await one.context.parts.cache.chats.prepare(hash_user("alice"), [])
            key = next(name for name in await _keys_of(redis, hash_user("alice")) if f":{kind}:" in name)
        assert await redis.cli("DEL", key) == 1
        for reference in crowd.people.values():
            reference.outcomes_lost()
        if kind == "person":
            await crowd.lost()
        await crowd.live(0.5)
        await crowd.settle(one)
        # A device that comes only now finds everything too.
        async with Device(one.url, "alice") as fresh:
            shown = chats_of(await fresh.sync())
            assert shown.keys() == crowd.clients[0].shown.keys()


async def test_f8_a_single_chat_is_gone(start_redis: StartRedis, tmp_path: Path) -> None:
    """F8: one draft was evicted: that chat is `missing`, the others stay as they are."""
    redis = await start_redis()
    async with sidecar(tmp_path, redis.url) as server, Device(server.url) as one, Device(server.url) as two:
        for device in (one, two):
            await device.sync()
        for chat in ("c1", "c2"):
            await begin(one, chat, doc(chat))
        cursor = (await one.sync())[-1]["cursor"]
        held = chats_of(await two.sync())
        [key] = [name for name in await _keys_of(redis, one.user) if ":person:" in name]
        gone = [f"{letter}:{one.full('c1')}" for letter in "cd"]
        assert await redis.cli("HDEL", key, *gone) == len(gone)
        frames = await one.sync(cursor=cursor, chats=[named("c1", 1, op=held[one.full("c1")]["draft_op"])])
        assert (frames[-1]["missing"], frames[-1]["deleted"]) == ([one.full("c1")], [])
        assert (await two.event("resync_required"))["reason"] == "epoch_changed"
        restored = await one.ask("chat_restore", restore_of(held[one.full("c1")]))
        assert restored["type"] == "chat_restored"
        shown = chats_of(await two.sync())
        assert {chat["draft"]["content"][0]["content"][0]["text"] for chat in shown.values()} == {"c1", "c2"}
        assert {chat["version"] for chat in shown.values()} == {1}
