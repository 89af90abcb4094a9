"""Messages, what they do to drafts, and how they reach the store: S23, S26–S28, S35, S70, S71 (semantics §4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar import Change, Entry, Outcome, Stored
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, doc, new_id
from tests.integration.world import (
    AT_ONCE,
    NEVER,
    begin,
    cached,
    devices,
    key_count,
    of_chat,
    record,
    rows,
    say,
    settled,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")


async def test_s26_the_first_message_makes_exactly_one_chat_row_and_one_message_row(
    server: Server, tmp_path: Path
) -> None:
    """S26: a draft-only chat never touches the store; its draft is gone with the message, and the status is told."""
    async with devices(server, 2) as (one, two):
        await begin(one, "other", doc("only a draft"))
        await begin(one, "c1", doc("hello"))
        await settled(server)
        assert rows(tmp_path, "SELECT 1 FROM chats") == []
        sent = await say(one, "c1", "m1", doc("hello"), draftVersion=1)
        assert (sent["message"]["status"], sent["message"]["sequence"], sent["message"]["role"]) == ("sent", 1, "user")
        assert (sent["messagesVersion"], sent["consumed"], sent["version"]) == (1, True, 2)
        assert sent["tempChatId"] == "c1"
        new = await two.event("message_new")
        assert (new["message"]["id"], new["message"]["content"]) == (sent["message"]["id"], doc("hello"))
        for device in (one, two):
            update = await device.event("message_update")
            assert (update["messageId"], update["status"]) == (sent["message"]["id"], "delivered")
            assert update["messagesVersion"] == 2
        assert [row["id"] for row in rows(tmp_path, "SELECT id FROM chats")] == [one.full("c1")]
        [row] = rows(tmp_path, "SELECT * FROM messages")
        assert (row["id"], row["sequence"], row["client_message_id"]) == (sent["message"]["id"], 1, "m1")
        assert b"hello" not in bytes(row["content"])


async def test_s26_a_message_can_begin_a_chat(server: Server, tmp_path: Path) -> None:
    """S26: without a draft before it; the others are told of the chat and then of the message."""
    async with devices(server, 2) as (one, two):
        sent = await say(one, "c1", "m1", doc("hi"))
        assert (sent["version"], sent["op"], sent["consumed"]) == (0, None, False)
        added = await two.event("chat_added")
        new = await two.event("message_new")
        assert added["chat"]["id"] == new["message"]["chat_id"] == one.full("c1")
        assert key_count(server) == 1
        await settled(server)
        assert len(rows(tmp_path, "SELECT 1 FROM chats")) == 1


async def test_s27_two_first_messages_at_once_are_one_chat_and_two_messages_in_a_fixed_order(
    server: Server, tmp_path: Path
) -> None:
    """S27: the order that everybody sees, live and from the store, is one and the same."""
    async with devices(server, 3) as (one, two, three):
        for number in range(5):
            chat = f"c{number}"
            ids = [
                await device.send("message_send", {"tempChatId": chat, "clientMessageId": name, "content": doc(name)})
                for device, name in ((one, "m-one"), (two, "m-two"))
            ]
            answers = [await one.answer(ids[0]), await two.answer(ids[1])]
            assert [answer["type"] for answer in answers] == ["message_accepted"] * 2
            sequences = {
                answer["payload"]["message"]["client_message_id"]: answer["payload"]["message"]["sequence"]
                for answer in answers
            }
            assert sorted(sequences.values()) == [1, 2]
            seen = [await three.event("message_new", of_chat(one.full(chat))) for _ in range(2)]
            assert {each["message"]["client_message_id"]: each["message"]["sequence"] for each in seen} == sequences
            await settled(server)
            stored = rows(
                tmp_path, "SELECT client_message_id, sequence FROM messages WHERE chat_id = ?", one.full(chat)
            )
            assert {row["client_message_id"]: row["sequence"] for row in stored} == sequences
        assert len(rows(tmp_path, "SELECT 1 FROM chats")) == 5
        assert key_count(server) == 5


async def test_s28_the_same_message_id_again_is_one_row_and_one_event(server: Server, tmp_path: Path) -> None:
    """S28: retried with the same operation, sent anew under another one, by another device."""
    async with devices(server, 3) as (one, two, three):
        frame = {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("x")}
        op = new_id()
        first = await one.ask("message_send", frame, op)
        same_operation = await one.ask("message_send", frame, op)
        new_operation = await one.ask("message_send", frame)
        elsewhere = await two.ask("message_send", {**frame, "content": doc("another text of it")})
        await settled(server)
        after_delivery = await one.ask("message_send", frame)
        answers = [first, same_operation, new_operation, elsewhere, after_delivery]
        assert {answer["type"] for answer in answers} == {"message_accepted"}
        assert len({answer["payload"]["message"]["id"] for answer in answers}) == 1
        assert {answer["payload"]["message"]["sequence"] for answer in answers} == {1}
        assert all(answer["payload"]["message"]["content"] == doc("x") for answer in answers)
        assert after_delivery["payload"]["message"]["status"] == "delivered"
        assert after_delivery["payload"]["durability"] == "stored"
        assert len(rows(tmp_path, "SELECT 1 FROM messages")) == 1
        await three.event("message_update")
        assert len([event for event in await three.quiet(0.05) if event["type"] == "message_new"]) == 1


async def test_s23_a_message_made_from_a_draft_consumes_it_everywhere(server: Server) -> None:
    """S23: and a late autosave that is based on the sent revision is refused."""
    async with devices(server, 2) as (one, two):
        made = await begin(one, "c1", doc("text"))
        await two.event("chat_added")
        sent = await say(one, "c1", "m1", doc("text"), draftVersion=1, draftOp=made["op"])
        assert (sent["consumed"], sent["version"]) == (True, 2)
        event = await two.event("draft_updated")
        assert (event["content"], event["reason"], event["version"], event["op"]) == (None, "consumed", 2, sent["op"])
        for device in (one, two):
            late = await device.ask("draft_update", {"chatId": "c1", "content": doc("text"), "basedOnVersion": 1})
            assert (late["type"], late["payload"]["reason"], late["payload"]["content"]) == (
                "draft_conflict",
                "consumed",
                None,
            )
        chat = await record(one, "c1")
        assert (chat["draft"], chat["draft_state"], chat["version"]) == (None, "consumed", 2)


async def test_s70_a_message_from_an_older_revision_leaves_the_newer_draft(server: Server) -> None:
    """S70: `consumed: false`, the newer draft stays, and the sender's next edit does not erase it."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("v1"))
        await two.ask("draft_update", {"chatId": "c1", "content": doc("v2 of two"), "basedOnVersion": 1})
        sent = await say(one, "c1", "m1", doc("v1"), draftVersion=1)
        assert (sent["consumed"], sent["version"]) == (False, 2)
        assert "replaced" not in sent
        erased = await one.ask("draft_update", {"chatId": "c1", "content": doc("next"), "basedOnVersion": 1})
        assert (erased["type"], erased["payload"]["content"]) == ("draft_conflict", doc("v2 of two"))
        chat = await record(one, "c1")
        assert (chat["draft"], chat["version"]) == (doc("v2 of two"), 2)
        # The same number with another operation is another text.
        other = await say(one, "c1", "m2", doc("x"), draftVersion=2, draftOp="an-operation-that-lost")
        assert (other["consumed"], (await record(one, "c1"))["draft"]) == (False, doc("v2 of two"))


async def test_s71_an_operation_id_with_another_frame_is_refused(server: Server) -> None:
    """S71: refused with the same socket or another one; the same frame by another socket gets the first outcome."""
    async with devices(server, 2) as (one, two):
        op = "an-operation-id-of-this-test"
        frame = {"tempChatId": "c1", "content": doc("first"), "basedOnVersion": 0}
        first = await one.ask("draft_update", frame, op)
        for device in (one, two):
            for type_, other in (
                ("draft_update", {**frame, "content": doc("second")}),
                ("draft_update", {**frame, "tempChatId": "c2"}),
                ("message_send", {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("first")}),
                ("title_update", {"chatId": "c1", "title": "t", "basedOnVersion": 0}),
                ("chat_delete", {"chatId": "c1"}),
            ):
                answer = await device.ask(type_, other, op)
                assert (answer["type"], answer["payload"]["code"]) == ("error", "bad_payload"), (type_, answer)
                assert answer["payload"]["details"]["path"] == "id"
        same = await two.ask("draft_update", frame, op)
        assert (same["type"], same["payload"]["version"]) == (first["type"], 1)
        chat = await record(one, "c1")
        assert (chat["version"], chat["draft"], chat["title_version"], chat["messages_version"]) == (
            1,
            doc("first"),
            0,
            0,
        )


async def test_the_row_is_never_behind_what_a_device_saw(serve: Serve, tmp_path: Path) -> None:
    """Semantics §4: it is written with the number that `delivered` will have."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        for number in range(1, 6):
            await say(one, "c1", f"m{number}", doc("x"))
            update = await two.event("message_update", lambda event: event["status"] == "delivered")
            assert rows(tmp_path, "SELECT messages_version FROM chats")[0][0] == update["messagesVersion"] == 2 * number
        ids = [
            await one.send("message_send", {"tempChatId": "c1", "clientMessageId": f"n{number}", "content": doc("x")})
            for number in range(5)
        ]
        for id_ in ids:
            await one.answer(id_)
        seen = [(await two.event("message_update"))["messagesVersion"] for _ in range(5)]
        assert rows(tmp_path, "SELECT messages_version FROM chats")[0][0] == max(seen) == 20


async def test_the_consumed_draft_travels_to_the_store_with_its_message(serve: Serve, tmp_path: Path) -> None:
    """Semantics §3: one write: the store never has the message and still the draft that it was made from."""
    async with serve(drafts=NEVER) as server, devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("hello"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("second"), "basedOnVersion": 0})
        await server.context.parts.cache.outbox.hurry()
        await one.event("chat_stored")
        sent = await say(one, "c1", "m2", doc("second"), draftVersion=1)
        await one.event("message_update", lambda event: event["messageId"] == sent["message"]["id"])
        [row] = rows(tmp_path, "SELECT version, draft, draft_state, draft_op FROM chats")
        assert tuple(row) == (2, None, "consumed", sent["op"])
        chat = await cached(server, one.full("c1"))
        assert chat is not None
        assert not chat.dirty


async def test_s26_no_chat_row_stands_before_its_first_message(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S26, F30: a draft and a title whose entries stand before the message's wait for it: no row without a message."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        parts = server.context.parts
        pending, commit = parts.cache.outbox.pending, parts.cache.chats.commit
        counts: list[tuple[int, int]] = []

        async def held_up(*arguments: Any) -> Sequence[Entry]:
            await pending(*arguments)  # which appends what is due
            return ()

        async def watched(change: Change) -> Outcome:
            if isinstance(change.what, Stored):  # after every write of the store
                counted = [len(rows(tmp_path, f"SELECT 1 FROM {table}")) for table in ("chats", "messages")]
                counts.append((counted[0], counted[1]))
            return await commit(change)

        monkeypatch.setattr(parts.cache.chats, "commit", watched)
        with monkeypatch.context() as patch:
            patch.setattr(parts.cache.outbox, "pending", held_up)
            await begin(one, "c1", doc("d"))
            await one.ask("title_update", {"chatId": "c1", "title": "t", "basedOnVersion": 0})
            await until(lambda: _waiting(server, 2))
            await say(one, "c1", "m1", doc("m"))
            await one.ask("draft_update", {"chatId": "c1", "content": doc("d2"), "basedOnVersion": 1})
            await until(lambda: _waiting(server, 3))
        await settled(server)
        assert counts
        assert all(chats == messages == 1 for chats, messages in counts), counts
        [row] = rows(tmp_path, "SELECT version, title_version, draft IS NULL AS none FROM chats")
        assert tuple(row) == (2, 1, 0)


async def _waiting(server: Server, least: int) -> bool:
    return (await server.context.parts.cache.outbox.positions())["persistence"].pending >= least


async def test_messages_come_in_pages(serve: Serve) -> None:
    """Semantics §6: 200 messages, oldest first within a page, from the cache and beyond it from the store."""
    async with serve(limits={"frames_per_second": 1000, "burst": 1000}) as server, devices(server, 1) as (one,):
        sent = [
            await one.send(
                "message_send", {"tempChatId": "c1", "clientMessageId": f"m{number}", "content": doc(f"{number}")}
            )
            for number in range(200)
        ]
        accepted = [(await one.answer(id_))["payload"]["message"] for id_ in sent]
        assert [message["sequence"] for message in accepted] == list(range(1, 201))
        await settled(server)
        chat = await cached(server, one.full("c1"))
        assert chat is not None
        assert len(chat.messages) == 100  # the rest is only in the store

        async def page(**more: object) -> tuple[list[str], bool]:
            answer = await one.ask("messages_request", {"chatId": "c1", **more})
            assert answer["type"] == "messages_page", answer
            return [m["content"]["content"][0]["content"][0]["text"] for m in answer["payload"]["messages"]], answer[
                "payload"
            ]["hasMore"]

        assert await page(limit=200) == ([str(number) for number in range(200)], False)
        assert await page(limit=10) == ([str(number) for number in range(190, 200)], True)
        assert await page(limit=150) == ([str(number) for number in range(50, 200)], True)
        assert await page(limit=30, before=accepted[115]["id"]) == ([str(number) for number in range(85, 115)], True)
        assert await page(limit=100, before=accepted[100]["id"]) == ([str(number) for number in range(100)], False)
        assert await page(limit=5, before=accepted[40]["id"]) == ([str(number) for number in range(35, 40)], True)
        assert await page(limit=5, before=accepted[0]["id"]) == ([], False)
        collected: list[str] = []
        before: dict[str, object] = {}
        more = True
        while more:
            texts, more = await page(limit=37, **before)
            before = {"before": accepted[int(texts[0])]["id"]}
            collected = texts + collected
        assert collected == [str(number) for number in range(200)]


async def test_messages_of_what_nobody_knows_are_not_found(server: Server) -> None:
    """Protocol *Errors*: an unknown chat, an unknown message, another chat's message, another person's chat: all the same."""
    async with devices(server, 1) as (one,), Device(server.url, "bob") as bob:
        sent = await say(one, "c1", "m1", doc("x"))
        await say(one, "c2", "m1", doc("y"))
        await settled(server)
        asked = [
            (one, {"chatId": "nobody-knows", "limit": 5}),
            (one, {"chatId": "c1", "limit": 5, "before": "5b8a6f0e-3c1d-5e54-9c40-7d1b8f6a2c11"}),
            (one, {"chatId": "c2", "limit": 5, "before": sent["message"]["id"]}),
            (bob, {"chatId": one.full("c1"), "limit": 5}),
            (bob, {"chatId": "c1", "limit": 5}),
        ]
        for device, payload in asked:
            answer = await device.ask("messages_request", payload)
            assert (answer["type"], answer["payload"]["code"]) == ("error", "not_found"), payload


async def test_s35_the_sender_is_viewing_even_if_set_active_chat_comes_late(server: Server) -> None:
    """S35: with its message the chat is open on that connection, and only there; naming another one moves on."""
    async with devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("x"))
        open_chats = {connection.id: connection.active_chat for connection in server.context.registry}
        assert open_chats == {one.ready["connectionId"]: one.full("c1"), two.ready["connectionId"]: None}
        late = await one.ask("set_active_chat", {"chatId": "c1"})
        assert late["payload"] == {"chatId": one.full("c1")}
        await one.ask("set_active_chat", {"chatId": None})
        assert all(connection.active_chat is None for connection in server.context.registry)


async def test_stopping_what_does_not_stream_is_not_found(server: Server) -> None:
    """Protocol *Messages*: `message_stop` of a message that is complete, or that nobody knows."""
    async with devices(server, 1) as (one,):
        sent = await say(one, "c1", "m1", doc("x"))
        for message in (sent["message"]["id"], "5b8a6f0e-3c1d-5e54-9c40-7d1b8f6a2c11"):
            answer = await one.ask("message_stop", {"chatId": "c1", "messageId": message})
            assert (answer["type"], answer["payload"]["code"]) == ("error", "not_found")


async def test_a_message_that_replaces_another_text_gives_it_back(serve: Serve) -> None:
    """Semantics §3: made from a higher revision than the server has (lost): consumed above it, `replaced` names what was here."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        made = await begin(one, "c1", doc("what the server has"))
        sent = await say(two, "c1", "m1", doc("what two wrote"), draftVersion=4, draftOp="lost-operation-of-two")
        assert (sent["consumed"], sent["version"]) == (True, 5)
        assert sent["replaced"] == {"draft": {"content": doc("what the server has"), "version": 1, "op": made["op"]}}
        same = await begin(one, "c2", doc("the same"))
        assert same["version"] == 1
        sent = await say(two, "c2", "m1", doc("the same"), draftVersion=4, draftOp="lost-operation-of-two")
        assert (sent["consumed"], sent["version"]) == (True, 5)
        assert "replaced" not in sent
