"""The outbox: at least once, in order per chat, through every failure of a plugin: S29, S31, S68, S72 (semantics §5)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from sidecar import ChatId, DeleteChat, Deleted, Notify, Unavailable, Unstorable, UserHash
from sidecar.chats import own_change
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, doc
from tests.integration.faulty_store import FaultyStore, Hearing
from tests.integration.world import (
    AT_ONCE,
    FAST,
    NEVER,
    begin,
    cached,
    devices,
    record,
    rows,
    say,
    settled,
    shard_of,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")

STORE = {"use": "tests.integration.faulty_store:FaultyStore"}
HEARING = {"use": "tests.integration.faulty_store:Hearing", "name": "hearing"}


def store_of(server: Server) -> FaultyStore:
    return cast("FaultyStore", _plugin(server, "persistence"))


def hearing_of(server: Server) -> Hearing:
    return cast("Hearing", _plugin(server, "hearing"))


def _plugin(server: Server, name: str) -> object:
    return next(plugin.instance for plugin in server.context.plugins._plugins if plugin.name == name)


async def parked(server: Server, plugin: str = "persistence", replay: Sequence[str] = ()) -> list[tuple[str, str]]:
    """The dead letters of a plugin, oldest first: chat and kind."""
    entries = await server.context.parts.cache.outbox.parked(plugin, replay)
    return [((entry.chat_id or "").partition("_")[2], entry.kind) for entry in entries]


async def replay_all(server: Server, plugin: str = "persistence") -> None:
    entries = await server.context.parts.cache.outbox.parked(plugin)
    assert entries
    await server.context.parts.cache.outbox.parked(plugin, [entry.id for entry in entries])


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries and pauses follow each other at once."""
    monkeypatch.setattr("sidecar.outbox.random.uniform", lambda low, high: 0.0)


async def test_s29_a_message_is_accepted_while_the_store_is_away_and_stored_when_it_is_back(
    serve: Serve, tmp_path: Path
) -> None:
    """S29: `sent` and `cached` until the store has it, then `delivered`; nothing is doubled."""
    async with serve(persistence=STORE) as server, devices(server, 2) as (one, two):
        store = store_of(server)
        store.trouble = lambda *_: Unavailable("persistence", "away")
        sent = await say(one, "c1", "m1", doc("m"))
        assert (sent["message"]["status"], sent["durability"]) == ("sent", "cached")
        assert (await two.event("message_new"))["message"]["status"] == "sent"
        await until(lambda: len(store.calls) >= 2)
        assert [event for event in two.events if event["type"] == "message_update"] == []
        store.trouble = lambda *_: None
        assert (await two.event("message_update"))["status"] == "delivered"
        assert len(rows(tmp_path, "SELECT 1 FROM messages")) == len(rows(tmp_path, "SELECT 1 FROM chats")) == 1


@pytest.mark.usefixtures("no_backoff")
async def test_s72_a_store_that_is_away_for_long_costs_no_try_and_no_dead_letter(serve: Serve, tmp_path: Path) -> None:
    """S72: far more than eight calls fail; afterwards everything is stored, each chat in its order, exactly once."""
    async with serve(persistence=STORE, drafts=AT_ONCE, limits=FAST) as server, devices(server, 1) as (one,):
        store = store_of(server)
        store.trouble = lambda *_: Unavailable("persistence", "away for an hour")
        for number in range(5):
            for chat in ("a", "b", "c"):
                await say(one, chat, f"m{number}", doc("m"))
        await one.ask("draft_update", {"chatId": "a", "content": doc("d"), "basedOnVersion": 0})
        await one.ask("chat_delete", {"chatId": "c"})
        await until(lambda: len(store.calls) > 40)
        outbox = server.context.parts.cache.outbox
        lease = server.context.worker._shards.lease(shard_of(server, one))
        assert lease is not None
        entries = await outbox.pending(lease, "persistence", 100)
        assert len(entries) >= 11
        assert {entry.tries for entry in entries} == {0}
        assert await parked(server) == []
        assert {m["status"] for m in (await _messages(one, "a"))} == {"sent"}
        store.trouble = lambda *_: None
        await settled(server)
        for chat in ("a", "b"):
            texts = [what for what in store.stored if what[1] == chat and what[0] != "on_draft"]
            assert texts == [("on_first_message", chat, "m0"), *(("on_message", chat, f"m{n}") for n in range(1, 5))]
        assert [what for what in store.stored if what[1] == "c"] == [("on_chat_deleted", "c", "")]
        assert [
            row["client_message_id"]
            for row in rows(
                tmp_path, "SELECT client_message_id FROM messages WHERE chat_id = ? ORDER BY sequence", one.full("a")
            )
        ] == [f"m{number}" for number in range(5)]
        assert len(rows(tmp_path, "SELECT 1 FROM chats")) == 2


async def _messages(device: object, chat: str) -> list[dict[str, str]]:
    answer = await device.ask("messages_request", {"chatId": chat, "limit": 200})  # type: ignore[attr-defined]
    return cast("list[dict[str, str]]", answer["payload"]["messages"])


async def test_one_outage_that_many_chats_meet_is_one_pause(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """S72: chats that are under way when the store goes away do not add up to the longest pause."""
    async with serve(persistence=STORE, limits=FAST) as server, devices(server, 1) as (one,):
        store = store_of(server)
        store.hold = asyncio.Event()
        for number in range(20):
            await say(one, f"c{number}", "m1", doc("m"))
        await until(lambda: store.under_way == 20)
        store.trouble = lambda *_: Unavailable("persistence", "away")
        store.hold.set()
        await until(lambda: store.under_way == 0)
        store.trouble = lambda *_: None
        [position] = server.context.worker._positions
        assert position._pauses == 1
        await settled(server)
        assert len(store.stored) == 20


@pytest.mark.usefixtures("no_backoff")
async def test_f51_other_errors_are_tried_eight_times_and_others_pass(serve: Serve, tmp_path: Path) -> None:
    """F51: then parked with all later entries of the chat; the message says `error`; other chats are stored."""
    async with serve(persistence=STORE, drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        store = store_of(server)
        store.trouble = lambda hook, chat, message: RuntimeError("no") if (chat, message) == ("bad", "m2") else None
        for number in range(1, 5):
            await say(one, "bad", f"m{number}", doc("m"))
            await say(one, "good", f"m{number}", doc("m"))
        failed = await two.event("message_update", lambda event: event["status"] == "error")
        assert [call for call in store.calls if call == ("on_message", "bad", "m2")] == [
            ("on_message", "bad", "m2")
        ] * 8
        assert failed["chatId"] == two.full("bad")
        await until(lambda: len([what for what in store.stored if what[1] == "good"]) == 4)
        await until(lambda: _is(parked(server), [("bad", "message")] * 3))
        # What comes later of that chat waits behind it.
        await say(one, "bad", "m5", doc("m"))
        await one.ask("draft_update", {"chatId": "bad", "content": doc("d"), "basedOnVersion": 0})
        await until(lambda: _is(parked(server), [("bad", "message")] * 4 + [("bad", "draft")]))
        assert [m["status"] for m in await _messages(one, "bad")][:2] == ["delivered", "error"]
        chat = await cached(server, one.full("bad"))
        assert chat is not None  # never evicted while it has a parked entry
        store.trouble = lambda *_: None
        await replay_all(server)
        await settled(server)
        for number in range(2, 6):
            sent = [m for m in await _messages(one, "bad") if m["client_message_id"] == f"m{number}"]
            assert [m["status"] for m in sent] == ["delivered"]
        assert [what[2] for what in store.stored if what[1] == "bad" and what[2]] == ["m1", "m2", "m3", "m4", "m5"]
        assert await parked(server) == []
        assert (await record(one, "bad"))["durability"] == "stored"
        assert len(rows(tmp_path, "SELECT 1 FROM messages WHERE chat_id = ?", one.full("bad"))) == 5


async def _is(awaitable: object, value: object) -> bool:
    return bool(await awaitable == value)  # type: ignore[misc]


async def test_unstorable_parks_at_once(serve: Serve) -> None:
    """Semantics §5: one call, no second try."""
    async with serve(persistence=STORE) as server, devices(server, 1) as (one,):
        store = store_of(server)
        store.trouble = lambda *_: Unstorable("never")
        sent = await say(one, "c1", "m1", doc("m"))
        update = await one.event("message_update")
        assert (update["messageId"], update["status"]) == (sent["message"]["id"], "error")
        assert update["messagesVersion"] == 2
        await until(lambda: _is(parked(server), [("c1", "first_message")]))
        assert store.calls == [("on_first_message", "c1", "m1")]
        store.trouble = lambda *_: None
        await replay_all(server)
        update = await one.event("message_update", lambda event: event["status"] == "delivered")
        assert update["messagesVersion"] == 3


async def test_s68_a_dead_letter_of_a_deleted_chat_is_gone_before_it_can_be_replayed(
    serve: Serve, tmp_path: Path
) -> None:
    """S68: no key is made again and no row returns."""
    async with serve(persistence=STORE) as server, devices(server, 1) as (one,):
        store = store_of(server)
        store.trouble = lambda hook, chat, message: Unstorable("never") if message else None
        await say(one, "c1", "m1", doc("m"))
        await until(lambda: _is(parked(server), [("c1", "first_message")]))
        letters = [entry.id for entry in await server.context.parts.cache.outbox.parked("persistence")]
        await one.ask("chat_delete", {"chatId": "c1"})
        store.trouble = lambda *_: None
        await server.context.parts.cache.outbox.parked("persistence", letters)
        await settled(server)
        assert await parked(server) == []
        assert store.stored == [("on_chat_deleted", "c1", "")]
        assert rows(tmp_path, "SELECT 1 FROM chats") == rows(tmp_path, "SELECT 1 FROM messages") == []


async def test_chats_are_delivered_at_once_and_each_in_its_order(serve: Serve) -> None:
    """Semantics §5: one call at a time per chat (the store checks it), many chats at the same time, at most 100."""
    async with serve(persistence=STORE, limits=FAST) as server, devices(server, 1) as (one,):
        store = store_of(server)
        store.hold = asyncio.Event()
        ids = [
            await one.send(
                "message_send",
                {"tempChatId": f"c{number % 120}", "clientMessageId": f"m{number // 120}", "content": doc("m")},
            )
            for number in range(240)
        ]
        for id_ in ids:
            assert (await one.answer(id_))["type"] == "message_accepted"
        await until(lambda: store.under_way == 100)
        store.hold.set()
        await settled(server)
        assert store.most_under_way == 100
        for number in range(120):
            assert [what for what in store.stored if what[1] == f"c{number}"] == [
                ("on_first_message", f"c{number}", "m0"),
                ("on_message", f"c{number}", "m1"),
            ]


async def test_s31_a_redelivered_first_message_takes_effect_once(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S31: the store has it, the outbox does not know that it has: delivered again after a restart, one chat, one row."""
    sections = {"persistence": STORE, "drafts": NEVER}
    async with serve(**sections) as server, devices(server, 1) as (one,):
        outbox = server.context.parts.cache.outbox

        async def lost(*_: object) -> None:
            raise Unavailable("cache", "the answer was lost")

        monkeypatch.setattr(outbox, "settle", lost)
        await say(one, "c1", "m1", doc("m"))
        assert (await one.event("message_update"))["status"] == "delivered"
        before = rows(tmp_path, "SELECT * FROM messages")
    async with serve(**sections) as server, devices(server, 1) as (one,):
        await settled(server)
        assert store_of(server).stored == [("on_first_message", "c1", "m1")]
        assert len(rows(tmp_path, "SELECT 1 FROM chats")) == 1
        assert [tuple(row) for row in rows(tmp_path, "SELECT * FROM messages")] == [tuple(row) for row in before]
        [message] = await _messages(one, "c1")
        assert message["status"] == "delivered"
        assert [event for event in one.events if event["type"] == "message_update"] == []


async def test_a_second_listener_has_a_position_of_its_own(serve: Serve) -> None:
    """Semantics §5: one that fails holds up no other; it hears of draft-only chats too, and of first messages by on_message."""
    async with serve(persistence=STORE, plugins=[HEARING], drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        store, hearing = store_of(server), hearing_of(server)
        store.trouble = lambda *_: Unavailable("persistence", "away")
        await begin(one, "c1", doc("d"))
        await until(lambda: ("on_draft", "c1", "") in hearing.heard)
        await say(one, "c1", "m1", doc("m"), draftVersion=1)
        await say(one, "c1", "m2", doc("m"))
        await until(lambda: len(hearing.heard) == 3)
        assert hearing.heard[1:] == [("on_message", "c1", "m1"), ("on_message", "c1", "m2")]
        assert store.stored == []
        assert {m["status"] for m in await _messages(one, "c1")} == {
            "sent"
        }  # success of persistence alone is `delivered`
        store.trouble = lambda *_: None
        hearing.trouble = lambda *_: Unstorable("not for me")
        await settled(server)
        await say(one, "c1", "m3", doc("m"))
        assert (await one.event("message_update", lambda event: event["messagesVersion"] == 6))["status"] == "delivered"
        await until(lambda: _is(parked(server, "hearing"), [("c1", "message")]))
        assert await parked(server) == []
        assert {m["status"] for m in await _messages(one, "c1")} == {"delivered"}


async def test_a_new_plugin_starts_at_the_end_and_one_that_has_gone_is_kept(serve: Serve) -> None:
    """Semantics §5: also over restarts; what a plugin has not heard waits for it."""
    async with serve(persistence=STORE) as server, devices(server, 1) as (one,):
        await say(one, "before", "m1", doc("m"))
        await settled(server)
    async with serve(persistence=STORE, plugins=[HEARING]) as server, devices(server, 1) as (one,):
        await say(one, "heard", "m1", doc("m"))
        await settled(server)
        assert hearing_of(server).heard == [("on_message", "heard", "m1")]
    async with serve(persistence=STORE) as server, devices(server, 1) as (one,):
        await say(one, "without", "m1", doc("m"))
        await one.event("message_update")
        positions = await server.context.parts.cache.outbox.positions()
        assert (positions["hearing"].pending, positions["persistence"].pending) == (1, 0)
    async with serve(persistence=STORE, plugins=[HEARING]) as server:
        await settled(server)
        assert hearing_of(server).heard == [("on_message", "without", "m1")]


async def test_edits_coalesce_and_what_is_delivered_is_the_state_at_delivery(serve: Serve, tmp_path: Path) -> None:
    """Semantics §5: fifty edits within the debounce are one write of the last."""
    async with (
        serve(persistence=STORE, drafts={"debounce": "300ms", "max_debounce": "10s"}, limits=FAST) as server,
        devices(server, 1) as (one,),
    ):
        store = store_of(server)
        await say(one, "c1", "m1", doc("m"))
        await one.event("message_update")
        for base in range(50):
            await one.ask("draft_update", {"chatId": "c1", "content": doc(str(base)), "basedOnVersion": base})
        stored = await one.event("chat_stored")
        assert stored["version"] == 50
        assert [what for what in store.stored if what[0] == "on_draft"] == [("on_draft", "c1", "")]
        assert rows(tmp_path, "SELECT version FROM chats")[0]["version"] == 50


async def test_an_edit_during_a_write_is_written_after_it(serve: Serve, tmp_path: Path) -> None:
    """Semantics §5: the older state that is on its way marks nothing newer as stored."""
    async with serve(persistence=STORE, drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        store = store_of(server)
        await say(one, "c1", "m1", doc("m"))
        await settled(server)
        store.hold = asyncio.Event()
        await one.ask("draft_update", {"chatId": "c1", "content": doc("1"), "basedOnVersion": 0})
        await until(lambda: store.under_way == 1)
        edited = await one.ask("draft_update", {"chatId": "c1", "content": doc("2"), "basedOnVersion": 1})
        assert edited["payload"]["durability"] == "cached"
        store.hold.set()
        assert (await one.event("chat_stored"))["version"] == 1
        assert (await one.event("chat_stored"))["version"] == 2
        assert rows(tmp_path, "SELECT version FROM chats")[0]["version"] == 2


async def test_what_came_before_the_end_of_a_person_is_delivered_before_it(serve: Serve) -> None:
    """T47: the late deletion of a chat would otherwise leave its mark behind the erasure."""
    order: list[str] = []
    done = asyncio.Event()
    async with serve() as server:
        parts = server.context.parts
        async with Device(server.url) as one:
            await one.sync()
            for number in range(5):
                await one.ask(
                    "message_send", {"tempChatId": f"c{number}", "clientMessageId": "m", "content": doc("text")}
                )
            for number in range(5):
                await one.event("message_update", lambda event, n=number: event["chatId"].endswith(f"_c{n}"))  # type: ignore[misc]
            user = UserHash(one.user)
            plugin = next(each for each in server.context.plugins.listeners if each.name == "persistence")
            deliver_deleted, deliver_erased = plugin.deliver_deleted, plugin.deliver_erased

            async def slow_deleted(chat: Deleted) -> None:
                await asyncio.sleep(0.05)
                order.append("deleted")
                await deliver_deleted(chat)

            async def erased(user: UserHash) -> None:
                order.append("erased")
                await deliver_erased(user)
                done.set()

            plugin.deliver_deleted, plugin.deliver_erased = slow_deleted, erased  # type: ignore[method-assign]
            for number in range(5):
                await parts.cache.chats.commit(own_change(parts, user, ChatId(one.full(f"c{number}")), DeleteChat()))
            await parts.cache.chats.commit(own_change(parts, user, ChatId(""), Notify("erased")))
            server.context.worker.wake()
            async with asyncio.timeout(10):
                await done.wait()
    assert order == ["deleted"] * 5 + ["erased"]
