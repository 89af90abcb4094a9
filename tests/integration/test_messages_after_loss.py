"""Messages, and drafts that they consumed, after a loss: S28, S69 (semantics §3, §4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar import ChatId, UserHash
from tests.conftest import Serve
from tests.device import doc
from tests.integration.world import (
    FAST,
    NEVER,
    chats_of,
    devices,
    held,
    lose_cache,
    record,
    restore_of,
    rows,
    say,
    settled,
    store_away,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")


@pytest.mark.parametrize("first", ["message again", "restore", "other device"])
async def test_s69_a_sent_text_does_not_come_back_as_a_draft(serve: Serve, tmp_path: Path, first: str) -> None:
    """S69: the store still has the draft that was sent, the cache has lost the message: it is consumed again."""
    async with serve(drafts=NEVER) as server, devices(server, 2) as (a, b):
        await say(a, "c1", "m0", doc("before"))
        await a.ask("draft_update", {"chatId": "c1", "content": doc("text"), "basedOnVersion": 0}, "operation-of-1")
        await settled(server)
        before = await record(b, "c1")
        message = {"chatId": "c1", "clientMessageId": "m1", "content": doc("text"), "draftVersion": 1}
        with store_away(server, reads=False) as refused:
            sent = await a.ask("message_send", message, "operation-of-m1")
            assert sent["payload"]["consumed"] is True
            await until(lambda: bool(refused))
            after = await record(a, "c1")
            await lose_cache(server, a)
        assert rows(tmp_path, "SELECT draft_state FROM chats")[0]["draft_state"] == "edited"

        async def restore() -> None:
            frames = await a.sync(chats=[held(after)])
            assert frames[-1]["missing"] == [a.full("c1")]
            restored = await a.ask("chat_restore", restore_of(after))
            assert restored["type"] == "chat_restored"
            assert restored["payload"]["chat"]["draft_state"] == "consumed"

        async def send_again() -> None:
            again = await a.ask("message_send", message, "operation-of-m1")
            assert again["type"] == "message_accepted"
            assert again["payload"]["message"]["id"] == sent["payload"]["message"]["id"]
            assert again["payload"]["version"] == 2

        if first == "other device":  # which holds the draft of version 1, as the store does
            [chat] = chats_of(await b.sync(chats=[held(before)])).values()
            assert (chat["version"], chat["draft_state"]) == (1, "edited")
        for step in (send_again, restore) if first == "message again" else (restore, send_again):
            if step is restore and first == "message again":
                continue  # nothing is missing any more
            await step()
        await settled(server)
        for device in (a, b):
            chat = chats_of(await device.sync())[a.full("c1")]
            assert (chat["draft"], chat["draft_state"], chat["version"]) == (None, "consumed", 2)
            assert [m["client_message_id"] for m in chat["messages"]] == ["m0", "m1"]
        late = await b.ask("draft_update", {"chatId": "c1", "content": doc("text"), "basedOnVersion": 1})
        assert (late["type"], late["payload"]["reason"]) == ("draft_conflict", "consumed")
        [row] = rows(tmp_path, "SELECT version, draft FROM chats")
        assert tuple(row) == (2, None)
        assert len(rows(tmp_path, "SELECT 1 FROM messages")) == 2


async def test_a_message_again_after_a_loss_is_one_row(serve: Serve, tmp_path: Path) -> None:
    """S28 after a loss: the store has the message, the cache nothing: the same id finds the same row, in its old place."""
    async with serve(drafts=NEVER) as server, devices(server, 1) as (one,):
        first = await say(one, "c1", "m1", doc("one"))
        await say(one, "c1", "m2", doc("two"))
        await settled(server)
        await lose_cache(server, one)
        server.context.parts.references.drop(UserHash(one.user), ChatId(one.full("c1")))
        again = await say(one, "c1", "m1", doc("one"))
        assert (again["message"]["id"], again["message"]["sequence"]) == (first["message"]["id"], 1)
        assert again["message"]["status"] == "delivered"
        third = await say(one, "c1", "m3", doc("three"))
        assert third["message"]["sequence"] == 3
        await settled(server)
        assert len(rows(tmp_path, "SELECT 1 FROM messages")) == 3


async def test_while_cache_and_store_are_both_gone_a_message_waits(serve: Serve) -> None:
    """Semantics §4: `unavailable`, and again with the same id it is accepted once."""
    async with serve(drafts=NEVER) as server, devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("m"))
        await settled(server)
        await lose_cache(server, one)
        message = {"chatId": "c1", "clientMessageId": "m2", "content": doc("n")}
        with store_away(server):
            answer = await one.ask("message_send", message, "operation-of-m2")
            assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
        answer = await one.ask("message_send", message, "operation-of-m2")
        assert (answer["type"], answer["payload"]["message"]["sequence"]) == ("message_accepted", 2)


async def test_s29_in_a_chat_of_which_the_store_has_more_messages_are_accepted_while_it_is_away(
    serve: Serve, tmp_path: Path
) -> None:
    """S29, F25, S28: a chat longer than what the cache keeps of it; what was sent long ago is one row if it comes again meanwhile."""
    async with serve(limits=FAST) as server, devices(server, 1) as (one,):
        for number in range(105):
            await say(one, "c1", f"m{number}", doc(f"{number}"))
        await settled(server)
        with store_away(server) as refused:
            sent = await say(one, "c1", "m105", doc("105"))
            assert sent["message"]["status"] == "sent"
            assert (await say(one, "c1", "m105", doc("105")))["message"]["id"] == sent["message"]["id"]
            await say(one, "c1", "m0", doc("0"))
            assert refused
        await settled(server)
        stored = rows(tmp_path, "SELECT client_message_id, sequence FROM messages ORDER BY sequence")
        assert [row["client_message_id"] for row in stored] == [f"m{number}" for number in range(106)]
        assert [row["sequence"] for row in stored] == list(range(1, 107))
        await lose_cache(server, one)
        page = (await one.ask("messages_request", {"chatId": "c1", "limit": 200}))["payload"]["messages"]
        assert [message["content"] for message in page] == [doc(f"{number}") for number in range(106)]
        assert {message["status"] for message in page} == {"delivered"}
