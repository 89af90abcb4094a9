"""Titles: S25, and what drafts have as well (semantics §2)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import doc, new_id
from tests.integration.world import AT_ONCE, begin, devices, record, rows, say

pytestmark = pytest.mark.caches("memory", "redis")


async def test_s25_a_title_does_not_conflict_with_a_draft_edit_of_the_same_chat(server: Server) -> None:
    """S25: both are accepted, in whichever order they arrive, and both reach the other device."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("a"))
        title = await one.send("title_update", {"chatId": "c1", "title": "Name", "basedOnVersion": 0})
        draft = await two.send("draft_update", {"chatId": "c1", "content": doc("b"), "basedOnVersion": 1})
        titled, edited = await one.answer(title), await two.answer(draft)
        assert (titled["type"], titled["payload"]["titleVersion"]) == ("title_updated", 1)
        assert (edited["type"], edited["payload"]["version"]) == ("draft_updated", 2)
        event = await two.event("title_updated")
        assert (event["title"], event["titleVersion"], event["op"]) == ("Name", 1, titled["payload"]["op"])
        assert (await one.event("draft_updated"))["content"] == doc("b")
        chat = await record(one, "c1")
        assert (chat["title"], chat["title_version"], chat["draft"], chat["version"]) == ("Name", 1, doc("b"), 2)


async def test_s12_a_stale_title_shows_the_winner_and_the_same_title_is_a_success(server: Server) -> None:
    """S12 for titles."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("a"))
        won = await one.ask("title_update", {"chatId": "c1", "title": "Won", "basedOnVersion": 0})
        lost = await two.ask("title_update", {"chatId": "c1", "title": "Lost", "basedOnVersion": 0})
        assert (lost["type"], lost["payload"]["reason"]) == ("title_conflict", "stale")
        assert (lost["payload"]["title"], lost["payload"]["titleVersion"], lost["payload"]["op"]) == (
            "Won",
            1,
            won["payload"]["op"],
        )
        assert lost["payload"]["deviceId"] == one.ready["device"]["id"]
        same = await two.ask("title_update", {"chatId": "c1", "title": "Won", "basedOnVersion": 0})
        assert (same["type"], same["payload"]["titleVersion"], same["payload"]["op"]) == (
            "title_updated",
            1,
            won["payload"]["op"],
        )


async def test_s14_a_title_again_by_the_same_operation_returns_the_first_result(server: Server) -> None:
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("a"))
        op = new_id()
        frame = {"chatId": "c1", "title": "One", "basedOnVersion": 0}
        first = await one.ask("title_update", frame, op)
        await one.ask("title_update", {"chatId": "c1", "title": "Two", "basedOnVersion": 1})
        again = await two.ask("title_update", frame, op)
        assert (again["type"], again["payload"]["titleVersion"], again["payload"]["op"]) == ("title_updated", 1, op)
        assert first["payload"]["op"] == op
        assert (await record(two, "c1"))["title"] == "Two"


async def test_s18_a_cleared_title_is_null_and_goes_on_rising(server: Server) -> None:
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("a"))
        await one.ask("title_update", {"chatId": "c1", "title": "T", "basedOnVersion": 0})
        cleared = await one.ask("title_update", {"chatId": "c1", "title": None, "basedOnVersion": 1})
        assert (cleared["payload"]["title"], cleared["payload"]["titleVersion"]) == (None, 2)
        assert (await two.event("title_updated", lambda event: event["titleVersion"] == 2))["title"] is None
        empty = await one.ask("title_update", {"chatId": "c1", "title": "", "basedOnVersion": 2})
        assert (empty["payload"]["title"], empty["payload"]["titleVersion"]) == ("", 3)
        assert (await record(two, "c1"))["title"] == ""


async def test_a_title_never_begins_a_chat(server: Server) -> None:
    """Semantics §3: of a chat that nobody knows, and above the version here, it is `missing`; of a deleted one `chat_deleted`."""
    async with devices(server, 1) as (one,):
        answer = await one.ask("title_update", {"chatId": "nobody-knows", "title": "T", "basedOnVersion": 0})
        assert (answer["type"], answer["payload"]["reason"]) == ("title_conflict", "missing")
        await begin(one, "c1", doc("a"))
        answer = await one.ask("title_update", {"chatId": "c1", "title": "T", "basedOnVersion": 3})
        assert (answer["type"], answer["payload"]["reason"]) == ("title_conflict", "missing")
        await one.ask("chat_delete", {"chatId": "c1"})
        answer = await one.ask("title_update", {"chatId": "c1", "title": "T", "basedOnVersion": 0})
        assert (answer["type"], answer["payload"]["reason"]) == ("title_conflict", "chat_deleted")


async def test_s19_a_title_over_the_limit_is_a_typed_error(server: Server) -> None:
    async with devices(server, 1) as (one,):
        await begin(one, "c1", doc("a"))
        answer = await one.ask("title_update", {"chatId": "c1", "title": "ä" * 501, "basedOnVersion": 0})
        assert (answer["payload"]["code"], answer["payload"]["details"]["limit"]) == ("too_large", 500)
        answer = await one.ask("title_update", {"chatId": "c1", "title": "ä" * 500, "basedOnVersion": 0})
        assert answer["payload"]["titleVersion"] == 1


async def test_a_title_reaches_the_store_sealed_and_with_its_revision(serve: Serve, tmp_path: Path) -> None:
    """S32 for the store: the row has the revision, and nothing that a person wrote."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("message-canary"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("draft-canary"), "basedOnVersion": 0}, "draft-op")
        await one.ask("title_update", {"chatId": "c1", "title": "title-canary", "basedOnVersion": 0}, "title-op")
        await one.event("chat_stored", lambda event: event["titleVersion"] == 1 and event["version"] == 1)
        [row] = rows(tmp_path, "SELECT version, draft_op, title_version, title_op FROM chats")
        assert tuple(row) == (1, "draft-op", 1, "title-op")
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            assert b"canary" not in path.read_bytes(), path.name
