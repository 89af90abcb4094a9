"""FLUSHALL under several sidecars: everything comes back from store and devices, and goes on (S20, S67–S69, F7; semantics §2, §6)."""

from __future__ import annotations

import pytest

from tests.device import Device, doc
from tests.fleet.fleet import Fleet, chats_of_redis, shards_of
from tests.fleet.test_fan_out import SOON, alice_on
from tests.integration.test_outbox import HEARING, hearing_of
from tests.integration.world import (
    AT_ONCE,
    NEVER,
    begin,
    held,
    named,
    of_chat,
    record,
    restore_of,
    say,
    settled,
    store_away,
    until,
)
from tests.services.redis_server import RedisServer


async def flush(redis_server: RedisServer) -> None:
    """Everything of everybody is gone: chats, logs, outbox, leases, the names of the plugins."""
    assert await redis_server.cli("FLUSHALL", "SYNC") is True


async def test_f7_s20_the_devices_are_told_and_bring_their_drafts_back(fleet: Fleet, redis_server: RedisServer) -> None:
    """F7, S20: `epoch_changed` on every sidecar; what the store has not got is `missing`, never `deleted`; versions go on."""
    async with fleet.serving(2, drafts=NEVER) as (one, other), alice_on(one, other) as (here, there):
        await say(here, "c1", "m1", doc("message"))
        await here.event("message_update")
        for version in range(1, 4):
            await here.ask(
                "draft_update", {"chatId": "c1", "content": doc(f"{version}"), "basedOnVersion": version - 1}
            )
            if version == 2:
                await settled(one)
        await begin(there, "only", doc("unsent"))
        await there.ask("title_update", {"chatId": "only", "title": "its title", "basedOnVersion": 0})
        chats = [await record(here, chat) for chat in ("c1", "only")]
        assert [chat["version"] for chat in chats] == [3, 1]
        cursor = (await here.sync())[-1]["cursor"]
        await flush(redis_server)
        for device in (here, there):
            assert (await device.event("resync_required"))["reason"] == "epoch_changed"
        frames = await here.sync(cursor=cursor, chats=[held(chat) for chat in chats])
        assert frames[0]["reason"] == "epoch_changed"
        assert set(frames[-1]["missing"]) == {chat["id"] for chat in chats}
        assert frames[-1]["deleted"] == []
        await there.sync()
        for chat in chats:
            restored = await here.ask("chat_restore", restore_of(chat))
            assert restored["type"] == "chat_restored", restored
            told = await there.event("chat_restored", of_chat(chat["id"]))
            for fields in (restored["payload"]["chat"], told["chat"], await record(there, chat["id"])):
                for key in ("draft", "version", "draft_op", "title", "title_version"):
                    assert fields[key] == chat[key]
            edit = {"chatId": chat["id"], "content": doc("on"), "basedOnVersion": chat["version"]}
            edited = await there.ask("draft_update", edit)
            assert edited["payload"]["version"] == chat["version"] + 1


async def test_f7_what_is_sent_right_after_a_loss_reaches_the_store(fleet: Fleet, redis_server: RedisServer) -> None:
    """F7: though the outbox, its plugins and the leases of its shards are gone: nothing accepted is without an entry."""
    async with fleet.serving(2, drafts=AT_ONCE) as servers, alice_on(*servers) as devices:
        fences = {lease.name: lease.fence for server in servers for lease in server.context.worker._shards.leases}
        for number in range(3):
            await flush(redis_server)
            for device, chat in zip(devices, ("a", "b"), strict=True):
                sent = {"tempChatId": chat, "clientMessageId": f"m{number}", "content": doc("m")}
                answer = await device.ask("message_send", sent)
                assert answer["type"] == "message_accepted", answer
            await until(lambda number=number: _stored(fleet) == 2 * (number + 1), SOON * 2)
        await until(
            lambda: sorted(shard for server in servers for shard in shards_of(server)) == sorted(fences), SOON * 2
        )
        for server in servers:
            for lease in server.context.worker._shards.leases:
                assert lease.fence > fences[lease.name]


def _stored(fleet: Fleet) -> int:
    return len(fleet.rows("SELECT 1 FROM messages"))


async def test_f7_a_listener_hears_what_comes_after_a_loss(fleet: Fleet, redis_server: RedisServer) -> None:
    """F7: every plugin, not the store's alone."""
    async with fleet.serving(1, drafts=AT_ONCE, plugins=[HEARING]) as (one,), alice_on(one) as (here,):
        await say(here, "before", "m1", doc("m"))
        await settled(one)
        await flush(redis_server)
        await say(here, "after", "m1", doc("m"))
        await here.event("message_update", of_chat(here.full("after")))
        await until(lambda: ("on_message", "after", "m1") in hearing_of(one).heard, SOON)


@pytest.mark.parametrize("first", ["edit", "restore"])
async def test_s67_nobody_ends_with_an_older_text_than_they_saw(
    fleet: Fleet, redis_server: RedisServer, first: str
) -> None:
    """S67: A holds version 5, the store has 3; B, on another sidecar and without a copy, edits first, or comes after A."""
    async with fleet.serving(2, drafts=NEVER) as (one, other), alice_on(one) as (a,):
        await say(a, "c1", "m1", doc("message"))
        for version in range(1, 6):
            frame = {"chatId": "c1", "content": doc(f"{version}"), "basedOnVersion": version - 1}
            await a.ask("draft_update", frame, f"operation-of-{version}")
            if version == 3:
                await settled(one)
        five = await record(a, "c1")
        assert five["version"] == 5
        await flush(redis_server)
        async with alice_on(other) as (b,):
            three = await record(b, "c1")
            assert (three["version"], three["draft"]) == (3, doc("3"))
            edit = {"chatId": "c1", "content": doc("b's"), "basedOnVersion": 3, "basedOnOp": "operation-of-3"}
            assert (await a.event("resync_required"))["reason"] == "epoch_changed"
            if first == "edit":
                assert (await b.ask("draft_update", edit))["payload"]["version"] == 4
            frames = await a.sync(chats=[held(five)])
            assert five["id"] in frames[-1]["missing"]
            restored = await a.ask("chat_restore", restore_of(five))
            assert restored["type"] == "chat_restored"
            replaced = restored["payload"]["replaced"]["draft"]
            assert (replaced["content"], replaced["version"]) == ((doc("b's"), 4) if first == "edit" else (doc("3"), 3))
            told = await b.event("chat_restored")
            assert (told["chat"]["draft"], told["chat"]["version"]) == (doc("5"), 5)
            if first == "restore":
                lost = await b.ask("draft_update", edit)
                assert (lost["type"], lost["payload"]["reason"]) == ("draft_conflict", "stale")
                assert lost["payload"]["content"] == doc("5")
            for device in (a, b):
                now = await record(device, "c1")
                assert (now["draft"], now["version"], now["draft_op"]) == (doc("5"), 5, "operation-of-5")


async def test_s69_a_sent_text_does_not_come_back_as_a_draft(fleet: Fleet, redis_server: RedisServer) -> None:
    """S69: the message consumed the draft; the cache is lost before anything was written; the message is sent again."""
    async with fleet.serving(2, drafts=NEVER) as (one, other), alice_on(one, other) as (a, b):
        with store_away(one), store_away(other):
            begun = await begin(a, "c1", doc("text"))
            sent = {
                "tempChatId": "c1",
                "clientMessageId": "m1",
                "content": doc("text"),
                "draftVersion": 1,
            }
            first = await a.ask("message_send", sent, "the-operation")
            assert (first["payload"]["consumed"], first["payload"]["version"]) == (True, 2)
            await b.event("message_new")
            draft = {"content": doc("text"), "state": "edited", "version": 1, "op": begun["op"]}
            await flush(redis_server)
            for device in (a, b):
                await device.event("resync_required")
        # The other device saw the draft only, the sender has the message that was not delivered.
        frames = await b.sync(chats=[named(a.full("c1"), 1, op=begun["op"])])
        assert frames[-1]["missing"] == [a.full("c1")]
        await b.ask("chat_restore", {"chatId": a.full("c1"), "draft": draft, "messagesVersion": 0})
        await a.sync()
        again = await a.ask("message_send", sent, "the-operation")
        assert again["type"] == "message_accepted", again
        for device in (a, b):
            await device.event("message_update", lambda event: event["status"] == "delivered")
            chat = await record(device, "c1")
            assert (chat["draft"], chat["draft_state"]) == (None, "consumed")
            assert chat["version"] >= 2
        assert _stored(fleet) == 1


async def test_s68_a_deleted_chat_stays_deleted_on_every_sidecar(fleet: Fleet, redis_server: RedisServer) -> None:
    """S68: deleted on one, everything lost, an old device comes to the other: `deleted`; no key, no row."""
    async with fleet.serving(2, drafts=AT_ONCE) as (one, other), alice_on(one, other) as (a, b):
        await say(a, "c1", "m1", doc("m"))
        await a.event("message_update")
        old = await record(b, "c1")
        assert (await a.ask("chat_delete", {"chatId": "c1"}))["type"] == "chat_deleted"
        await b.event("chat_deleted")
        await flush(redis_server)
        await b.event("resync_required")
        frames = await b.sync(chats=[held(old)])
        assert [gone["id"] for gone in frames[-1]["deleted"]] == [old["id"]]
        assert frames[-1]["missing"] == []
        edit = {"chatId": "c1", "content": doc("x"), "basedOnVersion": 0}
        assert (await b.ask("draft_update", edit))["payload"]["reason"] == "chat_deleted"
        restored = await b.ask("chat_restore", restore_of({**old, "messages_version": 9}))
        assert restored["payload"]["reason"] == "chat_deleted"
        await until(lambda: fleet.rows("SELECT 1 FROM chats") == [], SOON)


@pytest.mark.parametrize("number", range(13))
async def test_s47_any_key_of_a_person_lost_is_as_if_nothing_had_been_there(
    fleet: Fleet, redis_server: RedisServer, number: int
) -> None:
    """S47: each key of a person and of that person's shard in turn: the result equals the store, nothing is cleared, work goes on."""
    async with fleet.serving(2, drafts=AT_ONCE) as (one, other), alice_on(one, other) as (a, b):
        for chat in ("c1", "c2", "c3", "c4"):
            await say(a, chat, "m1", doc(chat))
            await a.ask("draft_update", {"chatId": chat, "content": doc(f"draft of {chat}"), "basedOnVersion": 0})
            await a.ask("title_update", {"chatId": chat, "title": f"title of {chat}", "basedOnVersion": 0})
        await settled(one)
        truth = {chat: await record(a, chat) for chat in ("c1", "c2", "c3", "c4")}
        key = chats_of_redis(one)._keys.person_and_outbox(a.user)[number]
        await redis_server.cli("DEL", key)
        async with Device(other.url) as fresh:
            for device in (fresh, b):
                frames = await device.sync(chats=[held(chat) for chat in truth.values()] if device is b else [])
                assert not any(frame["missing"] or frame["deleted"] for frame in frames)
                for known in truth.values():
                    now = await record(device, known["id"])
                    for field in ("draft", "version", "title", "title_version", "messages_version", "draft_state"):
                        assert now[field] == known[field], (key, field)
            sent = await say(b, "c1", "m2", doc("more"))
            assert sent["message"]["sequence"] == 2
            edit = {"chatId": "c1", "content": doc("newer"), "basedOnVersion": 1}
            assert (await fresh.ask("draft_update", edit))["payload"]["version"] == 2
            await until(lambda: _stored(fleet) == 5, SOON)
            await until(lambda: fleet.rows("SELECT version FROM chats WHERE id = ?", a.full("c1"))[0][0] == 2, SOON)
