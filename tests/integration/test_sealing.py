"""Keys and what is sealed with them: S60–S62, passthrough (semantics §8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar import Unavailable
from sidecar.server.running import Server
from tests.conftest import Serve, WipeCache
from tests.device import doc
from tests.integration.world import AT_ONCE, begin, devices, key_count, record, rows, say, settled

pytestmark = pytest.mark.caches("memory", "redis")


async def test_s60_without_a_key_service_nothing_is_written_and_no_key_made(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S60: unreachable: writes fail closed, the client may send the same again, and then it is accepted."""
    cipher = server.context.parts.cipher

    async def away(*_: object) -> Any:
        raise Unavailable("encryption", "away for the test")

    async with devices(server, 1) as (one,):
        await begin(one, "here", doc("a"))
        edit = {"chatId": "here", "content": doc("b"), "basedOnVersion": 1}
        new = {"tempChatId": "new", "content": doc("n"), "basedOnVersion": 0}
        with monkeypatch.context() as patch:
            for name in ("begin", "seal"):
                patch.setattr(cipher, name, away)
            for id_, frame in (("op-edit", edit), ("op-new", new)):
                answer = await one.ask("draft_update", frame, id_)
                assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
                assert answer["payload"]["retryable"] is True
                assert answer["payload"]["details"]["part"] == "encryption"
        assert key_count(server) == 1
        chat = await record(one, "here")
        assert (chat["version"], chat["draft"]) == (1, doc("a"))
        assert (await one.ask("draft_update", edit, "op-edit"))["payload"]["version"] == 2
        assert (await one.ask("draft_update", new, "op-new"))["type"] == "chat_initiated"


async def test_s60_a_key_that_is_not_found_is_not_made_anew(serve: Serve, tmp_path: Path) -> None:
    """S60: the key file was lost: the text is said to be unreadable, never empty, and nothing is written over it."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("hello"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("kept"), "basedOnVersion": 0})
        await settled(server)
    [before] = rows(tmp_path, "SELECT draft, version FROM chats")
    keys = tmp_path / "data" / "keys"
    aside = keys.rename(tmp_path / "keys.aside")
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        [chat] = (await one.ask("chats_request", {"ids": ["c1"]}))["payload"]["chats"]
        assert (chat["draft"], chat["undecryptable"], chat["draft_state"]) == (None, ["draft"], "edited")
        answer = await one.ask("draft_update", {"chatId": "c1", "content": doc("over"), "basedOnVersion": 1})
        assert (answer["type"], answer["payload"]["code"]) == ("error", "unavailable")
        assert key_count(server) == 0
        await settled(server)
    assert tuple(rows(tmp_path, "SELECT draft, version FROM chats")[0]) == tuple(before)
    keys.unlink(missing_ok=True)
    aside.rename(keys)
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        assert (await record(one, "c1"))["draft"] == doc("kept")


async def test_s61_first_drafts_of_two_devices_at_once_end_with_one_key(server: Server) -> None:
    """S61: one begins the chat, the other conflicts with it, and everything opens."""
    async with devices(server, 2) as (one, two):
        for number in range(10):
            chat = f"c{number}"
            ids = [
                await device.send("draft_update", {"tempChatId": chat, "content": doc(text), "basedOnVersion": 0})
                for device, text in ((one, "one"), (two, "two"))
            ]
            answers = [await one.answer(ids[0]), await two.answer(ids[1])]
            assert sorted(answer["type"] for answer in answers) == ["chat_initiated", "draft_conflict"]
            winner = doc("one") if answers[0]["type"] == "chat_initiated" else doc("two")
            loser = next(answer for answer in answers if answer["type"] == "draft_conflict")
            assert loser["payload"]["content"] == winner
            assert loser["payload"]["tempChatId"] == chat
            assert (await record(two, chat))["draft"] == winner
        assert key_count(server) == 10


async def test_s62_sealed_texts_moved_to_another_place_do_not_open(
    serve: Serve, tmp_path: Path, wipe_cache: WipeCache
) -> None:
    """S62: between chats, fields and versions; each is named `undecryptable`, kept, and replaced only by the person."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        for chat in ("a", "b", "c"):
            await say(one, chat, "m1", doc(f"message of {chat}"))
            await one.ask("draft_update", {"chatId": chat, "content": doc(f"draft of {chat}"), "basedOnVersion": 0})
            await one.ask("title_update", {"chatId": chat, "title": f"title of {chat}", "basedOnVersion": 0})
        await settled(server)
        a, b, c = (one.full(chat) for chat in "abc")
    drafts = {row["id"]: row for row in rows(tmp_path, "SELECT id, draft, title FROM chats")}
    rows(tmp_path, "UPDATE chats SET draft = ?, title = ? WHERE id = ?", drafts[b]["draft"], drafts[a]["draft"], a)
    rows(tmp_path, "UPDATE chats SET version = 2 WHERE id = ?", b)
    [moved] = rows(tmp_path, "SELECT content FROM messages WHERE chat_id = ?", a)
    rows(tmp_path, "UPDATE messages SET content = ? WHERE chat_id = ?", moved["content"], c)
    await wipe_cache()
    rows_before = [tuple(row) for row in rows(tmp_path, "SELECT id, draft, title FROM chats ORDER BY id")]
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        found = {chat: await record(one, chat) for chat in (a, b, c)}
        assert sorted(found[a]["undecryptable"]) == ["draft", "title"]
        assert (found[a]["draft"], found[a]["title"], found[a]["draft_state"]) == (None, None, "edited")
        assert (found[b]["undecryptable"], found[b]["draft"], found[b]["title"]) == (["draft"], None, "title of b")
        assert (found[c]["undecryptable"], found[c]["draft"]) == ([], doc("draft of c"))
        page = (await one.ask("messages_request", {"chatId": c, "limit": 10}))["payload"]
        assert page["undecryptable"] == [page["messages"][0]["id"]]
        assert page["messages"][0]["content"] is None
        # A stale edit is refused without showing an empty winner; one based on the revision replaces what does not open.
        stale = await one.ask("draft_update", {"chatId": a, "content": doc("stale"), "basedOnVersion": 0})
        assert (stale["type"], stale["payload"]["code"]) == ("error", "undecryptable")
        assert stale["payload"]["details"] == {"version": 1, "op": found[a]["draft_op"]}
        await settled(server)
        assert [tuple(row) for row in rows(tmp_path, "SELECT id, draft, title FROM chats ORDER BY id")] == rows_before
        mended = await one.ask("draft_update", {"chatId": a, "content": doc("mended"), "basedOnVersion": 1})
        assert mended["payload"]["version"] == 2
        now = await record(one, a)
        assert (now["draft"], now["undecryptable"]) == (doc("mended"), ["title"])


async def test_with_passthrough_content_is_a_string_that_only_clients_read(serve: Serve, tmp_path: Path) -> None:
    """Semantics §8: the client sealed it; a document is refused, the string comes back, the store has it as it is."""
    async with serve(encryption={"use": "passthrough"}, drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        refused = await one.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
        assert refused["payload"]["code"] == "bad_payload"
        assert "string" in refused["payload"]["message"]
        too_large = await one.ask("draft_update", {"tempChatId": "c1", "content": "x" * 140_000, "basedOnVersion": 0})
        assert too_large["payload"]["code"] == "too_large"
        await begin(one, "c1", "sealed-by-the-client")
        assert (await two.event("chat_added"))["chat"]["draft"] == "sealed-by-the-client"
        sent = await say(one, "c1", "m1", "sealed-message", draftVersion=1)
        assert sent["message"]["content"] == "sealed-message"
        await one.ask("title_update", {"chatId": "c1", "title": "sealed-title", "basedOnVersion": 0})
        assert (await two.event("title_updated"))["title"] == "sealed-title"
        await one.ask("draft_update", {"chatId": "c1", "content": "draft-2", "basedOnVersion": 2})
        conflict = await two.ask("draft_update", {"chatId": "c1", "content": "mine", "basedOnVersion": 2})
        assert (conflict["type"], conflict["payload"]["content"]) == ("draft_conflict", "draft-2")
        await settled(server)
        [row] = rows(tmp_path, "SELECT title, draft FROM chats")
        assert (bytes(row["title"]), orjson.loads(row["draft"])) == (b"sealed-title", "draft-2")
