"""When a draft is in the store, and how much a person may have that is not (semantics §3)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.device import Device, doc
from tests.integration.world import begin, cached, devices, record, rows, say, settled, until

pytestmark = pytest.mark.caches("memory", "redis")


async def test_each_acceptance_says_how_durable_it_is_and_the_store_reports_when_it_has_caught_up(
    serve: Serve, tmp_path: Path
) -> None:
    """Semantics §3: `cached` at once; `chat_stored` to every connection, the author's too; then `stored`."""
    async with serve(drafts={"debounce": "200ms", "max_debounce": "1s"}) as server, devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("hello"))
        await settled(server)
        edited = await one.ask("draft_update", {"chatId": "c1", "content": doc("d"), "basedOnVersion": 0}, "op-of-d")
        assert edited["payload"]["durability"] == "cached"
        titled = await one.ask("title_update", {"chatId": "c1", "title": "t", "basedOnVersion": 0})
        assert titled["payload"]["durability"] == "cached"
        assert rows(tmp_path, "SELECT version, title_version FROM chats")[0]["version"] == 0
        for device in (one, two):
            stored = await device.event(
                "chat_stored", lambda event: (event["version"], event["titleVersion"]) == (1, 1)
            )
            assert stored["chatId"] == device.full("c1")
        assert tuple(rows(tmp_path, "SELECT version, title_version, draft_op FROM chats")[0]) == (1, 1, "op-of-d")
        again = await one.ask("draft_update", {"chatId": "c1", "content": doc("d"), "basedOnVersion": 0}, "op-of-d")
        assert again["payload"]["durability"] == "stored"
        assert (await record(two, "c1"))["durability"] == "stored"
        more = await two.ask("draft_update", {"chatId": "c1", "content": doc("e"), "basedOnVersion": 1})
        assert more["payload"]["durability"] == "cached"
        assert (await record(two, "c1"))["durability"] == "cached"


async def test_f15_a_draft_is_due_at_once_when_the_last_device_leaves(serve: Serve, tmp_path: Path) -> None:
    """Semantics §3: an edit of a persisted chat is written at once on disconnect, however long the debounce."""
    async with serve(drafts={"debounce": "5m", "max_debounce": "5m"}) as server:
        async with devices(server, 1) as (one,):
            await say(one, "c1", "m1", doc("hello"))
            await settled(server)
            await one.ask("draft_update", {"chatId": "c1", "content": doc("left behind"), "basedOnVersion": 0})
            await asyncio.sleep(0.3)
            assert rows(tmp_path, "SELECT version FROM chats")[0]["version"] == 0
        await until(lambda: rows(tmp_path, "SELECT version FROM chats")[0]["version"] == 1)


async def test_a_person_has_a_limit_of_chats_without_a_message(serve: Serve) -> None:
    """T52: over it `quota_exceeded`, what is there stays usable, and a message makes room."""
    async with serve(limits={"draft_chats_per_user": 2}) as server, devices(server, 1) as (one,):
        await begin(one, "a", doc("a"))
        await begin(one, "b", doc("b"))
        over = await one.ask("draft_update", {"tempChatId": "c", "content": doc("c"), "basedOnVersion": 0})
        assert (over["type"], over["payload"]["code"]) == ("error", "quota_exceeded")
        assert over["payload"]["details"]["limit"] == 2
        assert await cached(server, one.full("c")) is None
        assert (await one.ask("draft_update", {"chatId": "a", "content": doc("a2"), "basedOnVersion": 1}))["payload"][
            "version"
        ] == 2
        await say(one, "a", "m1", doc("a2"), draftVersion=2)
        await begin(one, "c", doc("c"))
        async with Device(server.url, "bob") as other:
            await begin(other, "a", doc("bob's"))
