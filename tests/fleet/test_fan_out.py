"""What is done on one sidecar reaches the devices on the others: in order, once, and without the notice too (S55, S40; semantics §6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from plugins.cache.redis_layout import PERSON
from plugins.cache.redis_notices import Notices
from plugins.cache.redis_records import unpack
from sidecar.server.running import Server
from tests.device import Device, Frame, doc, new_id
from tests.fleet.fleet import Fleet, notices_of
from tests.integration.world import FAST, NEVER, begin, say, until
from tests.services.redis_server import RedisServer

SOON = 6.0
"""Far more than the two seconds of a look, on a machine that is busy."""

Told = Callable[[bytes], None]


@asynccontextmanager
async def alice_on(*servers: Server) -> AsyncIterator[list[Device]]:
    """A device of hers on each, synced."""
    devices = [Device(server.url) for server in servers]
    try:
        for device in devices:
            await device.open()
            await device.sync()
        yield devices
    finally:
        for device in devices:
            await device.close()


async def work(device: Device, chat: str, rounds: int) -> None:
    """Messages and titles in a chat of its own, each as soon as the one before is accepted."""
    for number in range(rounds):
        await say(device, chat, f"{chat}-{number}", doc(f"{number}"))
        titled = await device.ask("title_update", {"chatId": chat, "title": f"{number}", "basedOnVersion": number})
        assert titled["type"] == "title_updated", titled


def place_of(event: Frame) -> int:
    """Where in the log it stands."""
    return int(event["payload"]["cursor"].split(".")[1])


async def heard(device: Device, last: Callable[[list[Frame]], bool]) -> list[Frame]:
    """The events that came, once `last` holds of them."""
    await until(lambda: last(device.events), SOON)
    return device.events


def is_told(chat: str, rounds: int) -> Callable[[list[Frame]], bool]:
    """Whether the last message and title of `work` have come."""

    def told(events: list[Frame]) -> bool:
        titles = [each["payload"]["title"] for each in events if each["type"] == "title_updated"]
        return titles_of(events, chat)[-1:] == [f"{rounds - 1}"] and bool(titles)

    return told


def titles_of(events: list[Frame], chat: str) -> list[str]:
    return [
        each["payload"]["title"]
        for each in events
        if each["type"] == "title_updated" and each["payload"]["chatId"].endswith(f"_{chat}")
    ]


def messages_of(events: list[Frame], chat: str) -> list[str]:
    return [
        each["payload"]["message"]["client_message_id"]
        for each in events
        if each["type"] == "message_new" and each["payload"]["message"]["chat_id"].endswith(f"_{chat}")
    ]


async def all_hear_all(devices: list[Device], rounds: int) -> None:
    """Every device works in a chat of its own; each hears every message of the others once, and everything in its order."""
    chats = [f"c{number}" for number in range(len(devices))]
    await asyncio.gather(*(work(device, chat, rounds) for device, chat in zip(devices, chats, strict=True)))
    for own, device in zip(chats, devices, strict=True):
        for chat in chats:
            if chat == own:
                continue
            events = await heard(device, is_told(chat, rounds))
            assert messages_of(events, chat) == [f"{chat}-{number}" for number in range(rounds)]
            titles = [int(title) for title in titles_of(events, chat)]
            assert titles == sorted(set(titles)), "a title that a newer one overtook is left out, and none comes twice"
        assert messages_of(device.events, own) == [], "nobody hears what it did itself"
        places = [place_of(each) for each in device.events]
        assert places == sorted(set(places))


async def test_s55_every_device_hears_every_change_of_the_others_once_and_in_order(fleet: Fleet) -> None:
    """S55: two devices on one sidecar, two on another, all writing at the same time."""
    async with fleet.serving(2, drafts=NEVER, limits=FAST) as (one, other), alice_on(one, other, one, other) as devices:
        await all_hear_all(devices, 25)


async def test_s55_drafts_are_told_in_the_order_of_their_versions(fleet: Fleet) -> None:
    """S55, S11: device to device on one draft, taking turns, each based on what it was told by the other."""
    async with fleet.serving(2) as (one, other), alice_on(one, other) as (here, there):
        await begin(here, "c1", doc("1"))
        await there.event("chat_added")
        for version in range(1, 31):
            writer, reader = (there, here) if version % 2 else (here, there)
            edit = {"chatId": "c1", "content": doc(f"{version + 1}"), "basedOnVersion": version}
            assert (await writer.ask("draft_update", edit))["payload"]["version"] == version + 1
            told = await reader.event("draft_updated")
            assert (told["version"], told["content"]) == (version + 1, doc(f"{version + 1}"))
        assert here.events == there.events == []


def _lose(told: Told) -> Told:
    return lambda data: None


def _double(told: Told) -> Told:
    def twice(data: bytes) -> None:
        told(data)
        told(data)

    return twice


def _delay(told: Told) -> Told:
    """Late, and not in their order."""

    def later(data: bytes) -> None:
        asyncio.get_running_loop().call_later(random.uniform(0, 0.05), told, data)

    return later


def _lose_some(told: Told) -> Told:
    return lambda data: told(data) if random.random() < 0.5 else None


@pytest.mark.parametrize("trouble", [_lose, _lose_some, _double, _delay])
async def test_s55_notices_that_are_lost_doubled_or_late_change_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Told], Told]
) -> None:
    """S55: they only make it quick; the log is the truth, and its end is looked at every two seconds."""
    tampered = 0

    def tell(notices: Notices) -> None:
        passed = trouble(notices._told)

        def counting(data: bytes) -> None:
            nonlocal tampered
            tampered += 1
            passed(data)

        monkeypatch.setattr(notices, "_told", counting)

    async with fleet.serving(2, drafts=NEVER, limits=FAST) as (one, other), alice_on(one, other, other) as devices:
        for server in (one, other):
            tell(notices_of(server))
        await all_hear_all(devices, 15)
        assert tampered > 15


async def test_s55_a_gap_between_notices_is_filled_at_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """S55: the notice behind a lost one shows it; nobody waits for the next look."""
    monkeypatch.setattr("sidecar.feed._LOOK_SECONDS", 3600.0)
    monkeypatch.setattr("plugins.cache.redis_notices.LOOK_SECONDS", 3600.0)
    async with fleet.serving(2, drafts=NEVER) as (one, other), alice_on(one, other) as (here, there):
        tell, kept = notices_of(other)._told, list[bytes]()
        monkeypatch.setattr(notices_of(other), "_told", kept.append)
        await begin(here, "c1", doc("1"))
        for version in range(1, 6):
            await here.ask("title_update", {"chatId": "c1", "title": f"{version}", "basedOnVersion": version - 1})
        await until(lambda: len(kept) == 6)
        for number in (0, 1, 3, 5):
            tell(kept[number])
        await there.event("chat_added")
        assert (await there.event("title_updated", lambda event: event["titleVersion"] == 5))["title"] == "5"


async def test_s55_a_large_text_is_told_though_no_notice_carries_it(fleet: Fleet) -> None:
    """S55: with what was small before and after it in the same chat, all at once."""
    large = "x" * 40_000
    async with fleet.serving(2, drafts=NEVER, limits=FAST) as (one, other), alice_on(one, other) as (here, there):
        # The store is asked for nothing: what is told is what the cache has.
        for number in range(8):
            chat = f"c{number}"
            ids = []
            for message, text in (("small", "s"), ("large", large), ("last", "l")):
                sent = {"tempChatId": chat, "clientMessageId": message, "content": doc(text)}
                ids.append(await here.send("message_send", sent))
            ids.append(await here.send("title_update", {"chatId": chat, "title": "t", "basedOnVersion": 0}))
            ids.append(await here.send("draft_update", {"chatId": chat, "content": doc(large), "basedOnVersion": 0}))
            for id_ in ids:
                assert (await here.answer(id_))["type"] != "error"
            for message, text in (("small", "s"), ("large", large), ("last", "l")):
                told = await there.event("message_new")
                assert (told["message"]["client_message_id"], told["message"]["content"]) == (message, doc(text))
            assert (await there.event("draft_updated"))["content"] == doc(large)


async def test_s55_l46_a_subscription_that_died_is_noticed_and_begun_anew(
    fleet: Fleet, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S55, lesson L46: within two seconds; what was told meanwhile is made good from the log."""
    async with fleet.serving(2, drafts=NEVER) as (one, other), alice_on(one, other) as (here, there):
        notices = notices_of(other)
        for number in range(3):
            await until(lambda: notices.subscribed and notices_of(one).subscribed, SOON)
            before = notices.subscriptions
            assert int(await redis_server.cli("CLIENT", "KILL", "TYPE", "pubsub")) == 2
            await say(here, "c1", f"m{number}", doc(f"{number}"))
            assert (await there.event("message_new"))["message"]["client_message_id"] == f"m{number}"
            await until(lambda before=before: notices.subscriptions > before and notices.subscribed, SOON)
        # And notices come again: a look alone would find this later than its writer's next frame.
        told = asyncio.Event()
        tell = notices._told

        def telling(data: bytes) -> None:
            told.set()
            tell(data)

        monkeypatch.setattr(notices, "_told", telling)
        await say(here, "c1", "last", doc("last"))
        await asyncio.wait_for(told.wait(), SOON)
        assert (await there.event("message_new"))["message"]["client_message_id"] == "last"


async def test_presence_a_sidecar_hears_of_nobody_who_is_not_connected_to_it(
    fleet: Fleet, redis_server: RedisServer
) -> None:
    """Each has a channel of its own, on which only changes of its own people by others are told."""
    async with (
        fleet.serving(3, drafts=NEVER) as (one, other, third),
        redis_server.client() as redis,
        redis.pubsub() as ear,
    ):
        channels = {notices_of(server).channel + notices_of(server)._process: server for server in (one, other, third)}
        await ear.psubscribe("*")

        async def told() -> list[Server]:
            """On whose channels something was published by now."""
            await redis.publish("over", "")
            found: list[Server] = []
            async for message in ear.listen():
                if message["type"] == "pmessage":
                    if message["channel"] == b"over":
                        break
                    found.append(channels[message["channel"].decode()])
            return found

        async with alice_on(one, other) as (here, there), Device(third.url, "bob") as bob:
            await until(lambda: _watched(redis_server, 3), SOON)
            await say(bob, "c1", "m1", doc("bob's"))
            await bob.event("message_update")
            # Whoever stores his message tells the one that he is connected to, and nobody is told of him elsewhere.
            assert set(await told()) <= {third}
            await say(here, "c1", "m1", doc("alice's"))
            await there.event("message_update")
            await here.event("message_update")
            assert set(await told()) <= {one, other}
            assert other in set(await _after(told, here, "m2", there))
        # She left the other one: it hears of her no more.
        async with alice_on(one) as (here,):
            await until(lambda: _watched(redis_server, 1), SOON)
            await told()
            await say(here, "c1", "m3", doc("alone"))
            await here.event("message_update")
            assert set(await told()) <= {one}


async def _after(told: Callable[[], Any], here: Device, message: str, there: Device) -> list[Server]:
    await say(here, "c1", message, doc("again"))
    await there.event("message_new", lambda event: event["message"]["client_message_id"] == message)
    found: list[Server] = await told()
    return found


async def _watched(redis_server: RedisServer, count: int) -> bool:
    """Whether so many processes are written down at persons."""
    found = 0
    async with redis_server.client() as redis:
        async for key in redis.scan_iter("*:person:*"):
            person = unpack(cast("bytes", await redis.hget(key, "p")))
            found += len(person[PERSON.index("p_watching")]) // 2
    return found == count


async def test_s40_a_device_that_comes_back_to_another_sidecar_hears_what_it_missed_and_nothing_else(
    fleet: Fleet,
) -> None:
    """S40, S54: ten changes by the other device, a reconnect elsewhere by the cursor: exactly those, in order, then live."""
    async with fleet.serving(2, drafts=NEVER) as (one, other), alice_on(one, one) as (here, away):
        await begin(here, "known", doc("known"))
        cursor = (await away.sync())[-1]["cursor"]
        proof = away.proof
        await away.cut()
        for number in range(5):
            await say(here, "missed", f"m{number}", doc(f"{number}"))
            await here.ask("title_update", {"chatId": "missed", "title": f"{number}", "basedOnVersion": number})
        back = Device(other.url)
        back.proof = proof
        async with back:
            [delta] = await back.sync(cursor=cursor)
            assert (delta["·type"], [chat["id"] for chat in delta["chats"]]) == ("sync_delta", [here.full("missed")])
            [chat] = delta["chats"]
            assert (chat["title"], [m["client_message_id"] for m in chat["messages"]]) == (
                "4",
                [f"m{number}" for number in range(5)],
            )
            await here.ask("title_update", {"chatId": "missed", "title": "live", "basedOnVersion": 5}, new_id())
            assert (await back.event("title_updated"))["title"] == "live"
