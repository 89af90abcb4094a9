"""Two sidecars that share one Redis and one Directus: one listens for both, and everything takes effect once (S31, S55)."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from sidecar.server.running import Server
from tests.device import Device, doc
from tests.directus_store.test_notices import notice
from tests.directus_store.world import Prepared, key_of, plugin_of, somebody
from tests.fleet.fleet import Fleet
from tests.integration.world import AT_ONCE, until
from tests.services.directus.front import DirectusFront
from tests.services.redis_server import RedisServer


def _fleet(folder: Path, redis: RedisServer) -> Fleet:
    return Fleet(folder, {"use": "redis", "options": {"url": redis.url, "shards": 4}})


async def _all_delivered(servers: list[Server]) -> None:
    async def empty() -> bool:
        for server in servers:
            server.context.worker.wake()
        positions = await servers[0].context.parts.cache.outbox.positions()
        return not any(position.pending for position in positions.values())

    await servers[0].context.parts.cache.outbox.hurry()
    await until(empty, 30)


def _listening(servers: list[Server]) -> list[bool]:
    return [bool(plugin_of(server).state()["listening"]) for server in servers]


async def test_s31_s55_first_messages_take_effect_once_and_edits_reach_devices_on_both(
    directus: Prepared, redis_server: RedisServer, tmp_path: Path
) -> None:
    """S31, S55, F33: and a message whose answer was lost is delivered again by whoever works its shard."""
    person = somebody()
    async with DirectusFront(directus.server.url) as front:
        section = directus.section(front.url)
        async with (
            _fleet(tmp_path, redis_server).serving(2, persistence=section, drafts=AT_ONCE) as servers,
            Device(servers[0].url, person, wait=20) as one,
            Device(servers[1].url, person, wait=20) as other,
        ):
            await until(lambda: any(_listening(servers)))
            await asyncio.sleep(2)
            assert sum(_listening(servers)) == 1, "one of them listens for both"
            front.swallow(3, of=lambda method, path: method == "POST" and directus.names.messages in path)
            for number in range(6):
                device = (one, other)[number % 2]
                sent = {"tempChatId": "one", "clientMessageId": f"m{number}", "content": doc(f"{number}")}
                assert (await device.ask("message_send", sent))["type"] == "message_accepted"
            await one.ask("title_update", {"chatId": "one", "title": "A title", "basedOnVersion": 0})
            await _all_delivered(servers)
            assert len(await directus.rows("messages", person)) == 6
            assert len(await directus.rows("chats", person)) == 1
            for device in (one, other):
                device.events.clear()
            await directus.edit("chats", key_of(person, "one"), title=None)
            for device in (one, other):
                told = (await device.event("chat_restored"))["chat"]
                assert (told["title"], told["title_version"]) == (None, 2), "the same revision for both"

            async def stored() -> bool:
                return [row["title_version"] for row in await directus.rows("chats", person)] == [2]

            await until(stored)


async def test_t42_a_notice_that_one_process_took_is_a_replay_at_the_other(
    directus: Prepared, redis_server: RedisServer, tmp_path: Path
) -> None:
    """T42: whoever caught it cannot show it to another process either; that one hears of what the first took."""
    person, secret = somebody(), "what notices are signed with, 32 bytes and more"
    section = directus.section(changes="notices", notice_secret=secret)
    async with (
        _fleet(tmp_path, redis_server).serving(2, persistence=section, drafts=AT_ONCE) as servers,
        Device(servers[1].url, person, wait=20) as device,
    ):
        await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m", "content": doc("one")})
        await _all_delivered(servers)
        key, sent = key_of(person, "one"), time.time()
        await directus.delete("chats", key)
        gone = {"event": "items.delete", "collection": directus.names.chats, "key": key}
        assert await notice(servers[0], gone, secret=secret, sent=sent) == 204
        assert (await device.event("chat_deleted"))["chatId"] == device.full("one")
        for server in servers:
            assert await notice(server, gone, secret=secret, sent=sent) == 401


async def test_when_the_one_that_listens_goes_another_takes_its_place(
    directus: Prepared, redis_server: RedisServer, tmp_path: Path
) -> None:
    """What was edited in between is read by the one that comes after it."""
    person = somebody()
    fleet = _fleet(tmp_path, redis_server)
    section = directus.section()
    async with AsyncExitStack() as earlier:
        [first] = await earlier.enter_async_context(fleet.serving(1, persistence=section, drafts=AT_ONCE))
        await until(lambda: bool(plugin_of(first).state()["listening"]))
        async with (
            fleet.serving(1, persistence=section, drafts=AT_ONCE) as [second],
            Device(second.url, person, wait=30) as device,
        ):
            await device.ask("message_send", {"tempChatId": "one", "clientMessageId": "m", "content": doc("one")})
            await device.ask("title_update", {"chatId": "one", "title": "A title", "basedOnVersion": 0})
            await _all_delivered([first, second])
            assert _listening([first, second]) == [True, False]
            await earlier.aclose()
            await directus.edit("chats", key_of(person, "one"), title=None)
            assert (await device.event("chat_restored"))["chat"]["title"] is None
            await until(lambda: _listening([second]) == [True])
