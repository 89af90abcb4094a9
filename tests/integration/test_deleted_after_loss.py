"""What was deleted stays deleted after a loss: S68 (semantics §8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.server.running import Server
from tests.conftest import Serve, WipeCache
from tests.device import doc
from tests.integration.world import (
    AT_ONCE,
    devices,
    key_count,
    lose_cache,
    rows,
    say,
    settled,
    stop_outbox,
    store_away,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")


@pytest.mark.parametrize("loss", ["none", "in place", "restart"])
async def test_s68_a_deleted_chat_stays_deleted_after_a_loss(
    serve: Serve, tmp_path: Path, wipe_cache: WipeCache, loss: str
) -> None:
    """S68: cache emptied, an old device comes back: `deleted`, no key is made again, no row returns."""
    drafts = {"drafts": AT_ONCE}

    async def old_device_returns(server: Server) -> None:
        async with devices(server, 2, sync=False) as (old, other):
            keys = key_count(server)
            chat = old.full("c1")
            named = {"id": chat, "version": 4, "op": None, "titleVersion": 0, "messagesVersion": 2}
            draft = {"content": doc("old text"), "state": "edited", "version": 4, "op": "operation-of-4"}
            frames = await old.sync(chats=[named])
            assert [gone["id"] for gone in frames[-1]["deleted"]] == [chat]
            assert frames[-1]["missing"] == []
            for type_, payload in (
                ("chat_restore", {"chatId": "c1", "draft": draft, "messagesVersion": 2}),
                ("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}),
                ("draft_update", {"chatId": "c1", "content": doc("x"), "basedOnVersion": 4}),
                ("title_update", {"chatId": "c1", "title": "x", "basedOnVersion": 0}),
            ):
                answer = await other.ask(type_, payload)
                assert answer["payload"]["reason"] == "chat_deleted", (type_, answer)
            sent = await other.ask("message_send", {"tempChatId": "c1", "clientMessageId": "m9", "content": doc("x")})
            assert sent["type"] == "chat_deleted"
            assert (await other.ask("chat_delete", {"chatId": "c1"}))["type"] == "chat_deleted"
            assert key_count(server) == keys == 1
            await settled(server)
            assert [row["id"] for row in rows(tmp_path, "SELECT id FROM chats")] == [old.full("kept")]
            assert len(rows(tmp_path, "SELECT 1 FROM messages")) == 1

    async with serve(**drafts) as server:
        async with devices(server, 1) as (one,):
            await say(one, "kept", "m1", doc("kept"))
            await say(one, "c1", "m1", doc("m"))
            await settled(server)
            with store_away(server, reads=False) as refused:
                deleted = await one.ask("chat_delete", {"chatId": "c1"})
                assert deleted["type"] == "chat_deleted"
                await until(lambda: bool(refused))
                if loss == "in place":
                    await lose_cache(server, one)
                if loss == "restart":  # the row still stands, and the entry that would delete it goes with the cache
                    await stop_outbox(server)
            if loss == "restart":
                assert len(rows(tmp_path, "SELECT 1 FROM chats")) == 2
        if loss != "restart":
            await old_device_returns(server)
    if loss == "restart":
        await wipe_cache()
        async with serve(**drafts) as server:
            await old_device_returns(server)


async def test_s68_a_late_outbox_entry_brings_no_row_back(serve: Serve, tmp_path: Path) -> None:
    """S68: the message waits for the store while its chat is deleted: its entry is dropped."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        with store_away(server, reads=False) as refused:
            await say(one, "c1", "m1", doc("m"))
            await until(lambda: bool(refused))
            assert (await two.ask("chat_delete", {"chatId": "c1"}))["type"] == "chat_deleted"
        await settled(server)
        assert rows(tmp_path, "SELECT 1 FROM chats") == rows(tmp_path, "SELECT 1 FROM messages") == []
        assert key_count(server) == 0
