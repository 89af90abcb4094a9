"""Devices on different sidecars at the same moment: one wins, one key, one effect (S13, S14, S45, S61, S74, F47)."""

from __future__ import annotations

import asyncio

import pytest

from sidecar import ChatId, UserHash
from sidecar.server.running import Server
from tests.device import Device, doc, new_id
from tests.fleet.fleet import Fleet
from tests.fleet.test_fan_out import alice_on
from tests.integration.world import (
    AT_ONCE,
    FAST,
    NEVER,
    begin,
    cached,
    chats_of,
    key_count,
    record,
    say,
    settled,
    slow_reads,
    until,
)


async def test_s13_f47_of_a_hundred_updates_with_one_base_exactly_one_wins(fleet: Fleet) -> None:
    """S13, F47: from four devices on two sidecars at once, again and again; every loser gets the winner's text."""
    async with fleet.serving(2, drafts=NEVER, limits=FAST) as (one, other), alice_on(one, other, one, other) as devices:
        await begin(devices[0], "c1", doc("0"))
        for version in range(1, 11):
            edits = []
            for number in range(100):
                device = devices[number % 4]
                edit = {"chatId": "c1", "content": doc(f"{version} {number}"), "basedOnVersion": version}
                edits.append((device, await device.send("draft_update", edit), number))
            answers = [((await device.answer(id_)), number) for device, id_, number in edits]
            [winner] = [number for answer, number in answers if answer["type"] == "draft_updated"]
            for answer, _ in answers:
                assert answer["payload"]["version"] == version + 1
                if answer["type"] == "draft_conflict":
                    assert answer["payload"]["content"] == doc(f"{version} {winner}")
        for device in devices:
            assert (await record(device, "c1"))["version"] == 11


async def test_s14_f6_one_operation_that_comes_by_two_sidecars_at_once_is_done_once(fleet: Fleet) -> None:
    """S14, F6: sent again elsewhere before the first answer came: both get the first outcome, the others one event."""
    async with fleet.serving(2, drafts=NEVER, limits=FAST) as (one, other), alice_on(one, other, one) as devices:
        *devices, looker = devices
        for number in range(20):
            chat = f"c{number}"
            for type_, sent, answered in (
                ("draft_update", {"tempChatId": chat, "content": doc("1"), "basedOnVersion": 0}, "chat_initiated"),
                ("draft_update", {"chatId": chat, "content": doc("2"), "basedOnVersion": 1}, "draft_updated"),
                ("title_update", {"chatId": chat, "title": "t", "basedOnVersion": 0}, "title_updated"),
                (
                    "message_send",
                    {"tempChatId": chat, "clientMessageId": "m1", "content": doc("m"), "draftVersion": 2},
                    "message_accepted",
                ),
            ):
                operation = new_id()
                for device in devices:
                    await device.send(type_, sent, operation)
                answers = [await device.answer(operation) for device in devices]
                assert {answer["type"] for answer in answers} == {answered}
                first, second = ({**answer["payload"], "cursor": None} for answer in answers)
                for payload in (first, second):
                    payload.pop("durability", None)
                    payload.get("message", {}).pop("status", None)  # the store may have it by the second
                    payload.get("chat", {}).pop("durability", None)
                assert first == second
            await looker.event("message_new")
        for type_, count in (("chat_added", 20), ("title_updated", 20), ("message_new", 0)):
            assert sum(event["type"] == type_ for event in looker.events) == count
        for device in (*devices, looker):
            chats = chats_of(await device.sync())
            assert {(chat["version"], chat["title_version"]) for chat in chats.values()} == {(3, 1)}


async def test_s61_t35_first_drafts_of_one_chat_have_one_key_and_all_of_it_opens(fleet: Fleet) -> None:
    """S61, T35: on two sidecars with one key file; the loser gets the winner's text, and seals with the winner's key."""
    async with fleet.serving(2, drafts=NEVER, limits=FAST) as servers, alice_on(*servers) as devices:
        for number in range(30):
            chat = f"c{number}"
            ids = [
                await device.send("draft_update", {"tempChatId": chat, "content": doc(f"{n}"), "basedOnVersion": 0})
                for n, device in enumerate(devices)
            ]
            answers = [await device.answer(id_) for device, id_ in zip(devices, ids, strict=True)]
            assert sorted(answer["type"] for answer in answers) == ["chat_initiated", "draft_conflict"]
            [winner] = [n for n, answer in enumerate(answers) if answer["type"] == "chat_initiated"]
            assert answers[1 - winner]["payload"]["content"] == doc(f"{winner}")
            edit = {"chatId": chat, "content": doc("on"), "basedOnVersion": 1}
            assert (await devices[1 - winner].ask("draft_update", edit))["payload"]["version"] == 2
        for server, device in zip(servers, devices, strict=True):
            assert key_count(server) == 30
            chats = chats_of(await device.sync())
            assert [chat["draft"] for chat in chats.values()] == [doc("on")] * 30
            assert not any(chat["undecryptable"] for chat in chats.values())


@pytest.mark.parametrize("evicted", [False, True])
async def test_s45_s74_a_slow_fill_on_one_sidecar_while_another_accepts_an_edit(fleet: Fleet, evicted: bool) -> None:
    """S45, S74: what one read of the store before the other's edit (stored, and gone from the cache) takes its place nowhere."""
    async with fleet.serving(2, drafts=AT_ONCE) as (one, other), alice_on(one, other) as (reader, writer):
        await say(writer, "c1", "m1", doc("m"))
        await writer.ask("draft_update", {"chatId": "c1", "content": doc("old"), "basedOnVersion": 0})
        await settled(other)
        user, chat_id = UserHash(writer.user), ChatId(writer.full("c1"))
        await other.context.parts.cache.chats.drop(user, [chat_id])
        with slow_reads(one) as (hanging, go_on):
            page = await reader.send("messages_request", {"chatId": "c1", "limit": 5})
            await asyncio.wait_for(hanging.wait(), 10)
            edited = await writer.ask("draft_update", {"chatId": "c1", "content": doc("new"), "basedOnVersion": 1})
            assert edited["payload"]["version"] == 2
            if evicted:
                await until(lambda: len(fleet.rows("SELECT 1 FROM chats WHERE version = 2")) == 1)
                await until(lambda: _evicted(other, user, chat_id))
            go_on.set()
            assert (await reader.answer(page))["type"] == "messages_page"
        here = await cached(one, chat_id)
        assert here is None if evicted else here is not None and here.version == 2
        for device in (reader, writer):
            chat = await record(device, "c1")
            assert (chat["draft"], chat["version"]) == (doc("new"), 2)
        stale = await reader.ask("draft_update", {"chatId": "c1", "content": doc("stale"), "basedOnVersion": 1})
        assert (stale["type"], stale["payload"]["content"]) == ("draft_conflict", doc("new"))


async def _evicted(server: Server, user: UserHash, chat_id: ChatId) -> bool:
    """Drops the chat, once the outbox has said that it is stored; whether it is gone."""
    chats = server.context.parts.cache.chats
    await chats.drop(user, [chat_id])
    return chat_id not in await chats.read(user, [chat_id])


async def test_s53_f48_two_tabs_of_one_device_on_two_sidecars(fleet: Fleet) -> None:
    """S53, F48: a connection hears what its sibling did, and nothing of its own; closing one leaves the other."""
    async with fleet.serving(2, drafts=NEVER) as (one, other), Device(one.url) as first:
        tab = Device(other.url)
        tab.proof = first.proof
        await tab.open()
        assert tab.ready["device"]["id"] == first.ready["device"]["id"]
        for device in (first, tab):
            await device.sync()
        await begin(first, "c1", doc("1"))
        await tab.event("chat_added")
        await tab.ask("draft_update", {"chatId": "c1", "content": doc("2"), "basedOnVersion": 1})
        assert (await first.event("draft_updated"))["version"] == 2
        await tab.close()
        await say(first, "c1", "m1", doc("m"))
        await first.event("message_update")
        assert {event["type"] for event in first.events} <= {"chat_stored"}
