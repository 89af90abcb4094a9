"""After the cache lost everything: S20, S21, S67 (semantics §2, §6)."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar import ChatId, Unavailable, UserHash
from sidecar.server.running import Server
from tests.conftest import Serve, WipeCache
from tests.device import Device, Frame, doc
from tests.integration.world import (
    AT_ONCE,
    NEVER,
    begin,
    cached,
    chats_of,
    devices,
    held,
    key_count,
    lose_cache,
    of_chat,
    record,
    restore_of,
    say,
    settled,
    stop_outbox,
    store_away,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")


async def persisted(device: Device, server: Server, stored: int, here: int) -> Frame:
    """A chat whose draft has version `here`, and in the store version `stored`: as its device holds it."""
    await say(device, "c1", "m1", doc("message"))
    for version in range(1, here + 1):
        frame = {"chatId": "c1", "content": doc(f"text {version}"), "basedOnVersion": version - 1}
        await device.ask("draft_update", frame, f"operation-of-{version}")
        if version == stored:
            await settled(server)
    chat = await record(device, "c1")
    assert (chat["version"], chat["durability"]) == (here, "cached")
    return chat


async def test_s20_a_draft_that_the_cache_lost_comes_back_from_its_device(serve: Serve, wipe_cache: WipeCache) -> None:
    """S20, F7: cache emptied, server restarted: the draft-only chat and the newer draft are `missing`, never `deleted`."""
    async with serve(drafts=NEVER) as server, devices(server, 1) as (one,):
        newer = await persisted(one, server, stored=3, here=5)
        await begin(one, "draft-only", doc("unsent"))
        only = await record(one, "draft-only")
        cursor = (await one.sync())[-1]["cursor"]
        await stop_outbox(server)  # the last device leaves, which would write the draft
    await wipe_cache()
    async with serve(drafts=NEVER) as server, devices(server, 2, sync=False) as (one, two):
        frames = await one.sync(cursor=cursor, chats=[held(newer), held(only)])
        assert frames[0]["reason"] == "epoch_changed"
        assert set(frames[-1]["missing"]) == {newer["id"], only["id"]}
        assert frames[-1]["deleted"] == []
        await two.sync()
        for chat in (newer, only):
            answer = await one.ask("chat_restore", restore_of(chat))
            assert answer["type"] == "chat_restored"
            restored = await two.event("chat_restored", of_chat(chat["id"]))
            for fields in (answer["payload"]["chat"], restored["chat"], await record(two, chat["id"])):
                assert {key: fields[key] for key in ("draft", "version", "draft_op", "draft_state")} == {
                    key: chat[key] for key in ("draft", "version", "draft_op", "draft_state")
                }
            # What the server had of the store gave way, and comes back to whoever put it out of the way.
            replaced = answer["payload"].get("replaced")
            if chat is newer:
                assert replaced == {"draft": {"content": doc("text 3"), "version": 3, "op": "operation-of-3"}}
            else:
                assert replaced is None
            edit = {"chatId": chat["id"], "content": doc("on"), "basedOnVersion": chat["version"]}
            assert (await one.ask("draft_update", edit))["payload"]["version"] == chat["version"] + 1


@pytest.mark.parametrize("part", ["cache", "persistence"])
async def test_s21_an_error_while_versions_are_asked_for_is_no_answer(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """S21: "unknown" is said as `unavailable`: nothing is missing, nothing deleted, nothing cleared; then all is as before."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("m"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("d"), "basedOnVersion": 0})
        await settled(server)
        chat = await record(one, "c1")
        cursor = (await one.sync())[-1]["cursor"]
        chats = server.context.parts.cache.chats
        await chats.drop(UserHash(one.user), [ChatId(chat["id"])])

        async def away(*_: object, **__: object) -> Any:
            raise Unavailable("cache", "away for the test")

        async def ask_everything() -> None:
            for more in ({}, {"cursor": cursor}):
                frames = await one.sync(chats=[held(chat)], **more)
                assert frames[-1]["·type"] == "error"
                assert (frames[-1]["code"], frames[-1]["details"]["part"]) == ("unavailable", part)
                assert not any(frame["complete"] or frame["missing"] or frame["deleted"] for frame in frames[:-1])
            for type_, payload in (
                ("draft_update", {"chatId": "c1", "content": doc("x"), "basedOnVersion": 1}),
                ("draft_delete", {"chatId": "c1", "basedOnVersion": 1, "hasMessages": True}),
                ("title_update", {"chatId": "c1", "title": "x", "basedOnVersion": 0}),
                ("chat_restore", restore_of(chat)),
                ("message_send", {"chatId": "c1", "clientMessageId": "m2", "content": doc("x")}),
                ("chats_request", {"ids": ["c1"]}),
                ("messages_request", {"chatId": "c1", "limit": 5}),
            ):
                answer = await one.ask(type_, payload)
                assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable"), (type_, answer)
                assert answer["payload"]["retryable"] is True

        if part == "cache":
            with monkeypatch.context() as patch:
                for name in ("read", "commit", "events", "prepare"):
                    patch.setattr(chats, name, away)
                await ask_everything()
        else:
            with store_away(server):
                await ask_everything()
        assert await record(one, "c1") == chat


ORDERS = ["edit first", "restore first", "another device edits first", "another device edits above"]


@pytest.mark.parametrize("order", ORDERS)
async def test_s67_nobody_ends_with_an_older_text_and_what_lost_is_handed_back(serve: Serve, order: str) -> None:
    """S67: A holds version 5 and the store has 3: whoever comes first, by edit or by restore."""
    async with serve(drafts=NEVER) as server, devices(server, 2) as (a, b):
        five = await persisted(a, server, stored=3, here=5)
        await lose_cache(server, a)
        server.context.parts.references.drop(UserHash(a.user), ChatId(five["id"]))
        edit = {"chatId": "c1", "content": doc("on 5"), "basedOnVersion": 5, "basedOnOp": "operation-of-5"}
        if order == "edit first":
            refused = await a.ask("draft_update", edit)
            assert (refused["type"], refused["payload"]["reason"]) == ("draft_conflict", "missing")
        if order.startswith("another"):
            from_three = {"chatId": "c1", "content": doc("b on 3"), "basedOnVersion": 3, "basedOnOp": "operation-of-3"}
            assert (await b.ask("draft_update", from_three))["payload"]["version"] == 4
            if order.endswith("above"):
                more = {"chatId": "c1", "content": doc("b on 4"), "basedOnVersion": 4}
                assert (await b.ask("draft_update", more, "operation-of-b"))["payload"]["version"] == 5
        answer = await a.ask("chat_restore", restore_of(five))
        if order.endswith("above"):
            # Equal numbers with different texts never meet as equal.
            assert (answer["type"], answer["payload"]["reason"]) == ("draft_conflict", "stale")
            assert (answer["payload"]["version"], answer["payload"]["op"]) == (5, "operation-of-b")
            assert answer["payload"]["content"] == doc("b on 4")
            refused = await a.ask("draft_update", edit)
            assert (refused["type"], refused["payload"]["content"]) == ("draft_conflict", doc("b on 4"))
            final = (5, "operation-of-b", doc("b on 4"))
        else:
            assert answer["type"] == "chat_restored"
            replaced = answer["payload"]["replaced"]["draft"]
            if order == "another device edits first":
                assert (replaced["version"], replaced["content"]) == (4, doc("b on 3"))
            else:
                assert (replaced["version"], replaced["content"]) == (3, doc("text 3"))
            # Either is fine: the log is another one, or its end was followed already.
            await until(lambda: bool({event["type"] for event in b.events} & {"resync_required", "chat_restored"}))
            accepted = await a.ask("draft_update", edit, "again-under-another-operation")
            assert accepted["payload"]["version"] == 6
            final = (6, "again-under-another-operation", doc("on 5"))
        for device in (a, b):
            chat = chats_of(await device.sync())[five["id"]]
            assert (chat["version"], chat["draft_op"], chat["draft"]) == final


async def test_s67_a_restore_that_brings_only_what_is_higher(serve: Serve) -> None:
    """Semantics §2: field by field; the same again is a success; the rest of the chat stays."""
    async with serve(drafts=NEVER) as server, devices(server, 2) as (a, b):
        await begin(a, "c1", doc("a"))
        first = await record(a, "c1")
        await b.ask("draft_update", {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1})
        answer = await a.ask("chat_restore", restore_of(first))
        assert (answer["type"], answer["payload"]["reason"], answer["payload"]["content"]) == (
            "draft_conflict",
            "stale",
            doc("b"),
        )
        # The draft loses and the title wins: the title that gave way is nowhere else, and comes with the conflict.
        for title in ("T2", "T3"):
            version = int(title[1]) - 2
            await b.ask("title_update", {"chatId": "c1", "title": title, "basedOnVersion": version})
        titled = {**first, "title_version": 4, "title": "T4", "title_op": "operation-t4"}
        for _ in range(2):  # once more under the same id, as after a lost answer
            answer = await a.ask("chat_restore", restore_of(titled), "operation-restore")
            assert (answer["type"], answer["payload"]["reason"]) == ("draft_conflict", "stale")
            assert answer["payload"]["replaced"]["title"]["title"] == "T3"
        now = await record(a, "c1")
        assert (now["title"], now["title_version"], now["draft"]) == ("T4", 4, doc("b"))
        same = await a.ask("chat_restore", restore_of(now))
        assert (same["type"], same["payload"]["chat"]["version"]) == ("chat_restored", 2)
        assert "replaced" not in same["payload"]
        titled = await a.ask(
            "chat_restore", {**restore_of({**now, "title_version": 7, "title": "T", "title_op": None})}
        )
        assert titled["payload"]["chat"]["title_version"] == 7
        raised = await a.ask("chat_restore", {"chatId": "c1", "messagesVersion": 11})
        assert raised["payload"]["chat"]["messages_version"] == 11
        chat = await record(b, "c1")
        assert (chat["version"], chat["draft"], chat["title"], chat["messages_version"]) == (2, doc("b"), "T", 11)
        # Numbers go on above what was restored.
        sent = await say(a, "c1", "m1", doc("m"))
        assert sent["messagesVersion"] == 12


async def test_s67_of_equal_numbers_of_two_devices_one_wins_and_the_other_keeps_a_copy(server: Server) -> None:
    """S67: both restore version 5, each with its own operation: the second is told the first one's text."""
    async with devices(server, 2) as (a, b):
        texts = {a: "of a", b: "of b"}
        answers = {}
        for device, text in texts.items():
            draft = {"content": doc(text), "state": "edited", "version": 5, "op": f"operation {text}".replace(" ", "-")}
            answers[device] = await device.ask("chat_restore", {"chatId": "c1", "draft": draft, "messagesVersion": 0})
        assert answers[a]["type"] == "chat_restored"
        assert (answers[b]["type"], answers[b]["payload"]["reason"]) == ("draft_conflict", "stale")
        assert (answers[b]["payload"]["op"], answers[b]["payload"]["content"]) == ("operation-of-a", doc("of a"))


async def test_a_restore_of_nothing_makes_no_chat(server: Server) -> None:
    """Semantics §2: a device that holds nothing either brings nothing back, and no key is made for it."""
    async with devices(server, 1) as (one,):
        answer = await one.ask("chat_restore", {"chatId": "c1", "messagesVersion": 0})
        assert (answer["type"], answer["payload"]["reason"]) == ("draft_conflict", "missing")
        assert key_count(server) == 0


async def test_answers_of_operations_whose_revision_was_lost_are_made_anew(serve: Serve) -> None:
    """Semantics §1: an acceptance whose revision the server no longer holds is forgotten and carried out anew."""
    async with serve(drafts=NEVER) as server, devices(server, 1) as (one,):
        await begin(one, "c1", doc("a"))
        edit = {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1}
        assert (await one.ask("draft_update", edit, "operation-b"))["payload"]["version"] == 2
        await lose_cache(server, one)
        lost = await one.ask("draft_update", edit, "operation-b")
        assert (lost["type"], lost["payload"]["reason"]) == ("draft_conflict", "missing")
        # `missing` is not remembered: after the restore the same is asked again, and is found to be there.
        await one.ask(
            "chat_restore",
            {
                "chatId": "c1",
                "draft": {"content": doc("b"), "state": "edited", "version": 2, "op": "operation-b"},
                "messagesVersion": 0,
            },
        )
        again = await one.ask("draft_update", edit, "operation-b")
        assert (again["type"], again["payload"]["version"]) == ("draft_updated", 2)
        chat = await cached(server, one.full("c1"))
        assert chat is not None
        assert chat.version == 2


async def test_records_of_an_older_epoch_are_merged_with_the_store_higher_revision_first(serve: Serve) -> None:
    """Semantics §6: one chat was lost, so a new epoch begins; what the cache still has above the store stays, field by field."""
    async with serve(drafts=NEVER) as server, devices(server, 2) as (one, two):
        await persisted(one, server, stored=3, here=5)
        await one.ask("title_update", {"chatId": "c1", "title": "unsaved", "basedOnVersion": 0})
        await say(one, "c2", "m1", doc("another"))
        cursor = (await two.sync())[-1]["cursor"]
        lost = {"id": "lost", "version": 2, "titleVersion": 0, "messagesVersion": 0}
        frames = await two.sync(cursor=cursor, chats=[lost])
        assert (frames[0]["reason"], frames[-1]["missing"]) == ("epoch_changed", [two.full("lost")])
        chat = chats_of(frames)[two.full("c1")]
        assert (chat["version"], chat["draft"], chat["title"]) == (5, doc("text 5"), "unsaved")
        edit = {"chatId": "c1", "content": doc("on 5"), "basedOnVersion": 5, "basedOnOp": "operation-of-5"}
        assert (await one.ask("draft_update", edit))["payload"]["version"] == 6
        now = await cached(server, one.full("c1"))
        assert now is not None
        assert (now.version, now.title_version, now.epoch) == (6, 1, frames[-1]["cursor"].split(".")[0])
