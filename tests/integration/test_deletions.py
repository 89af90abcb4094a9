"""Chats that are deleted: S44, and deletions that stopped half way (semantics §8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidecar import ChatId, KeyReference, UserHash
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import doc
from tests.integration.world import (
    AT_ONCE,
    chats_of,
    devices,
    named,
    rows,
    say,
    settled,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")


async def test_s44_a_chat_with_a_tombstone_is_deleted_and_no_stale_edit_brings_it_back(server: Server) -> None:
    """S44: by full sync, by cursor, and for every kind of change."""
    async with devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("m"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("d"), "basedOnVersion": 0})
        cursor = (await two.sync())[-1]["cursor"]
        await two.close()
        await one.ask("chat_delete", {"chatId": "c1"})
        await two.open()
        holds = [named("c1", version=1, messages=2)]
        for frames in (await two.sync(cursor=cursor, chats=holds), await two.sync(chats=holds)):
            assert [gone["id"] for gone in frames[-1]["deleted"]] == [two.full("c1")]
            assert frames[-1]["missing"] == []
            assert chats_of(frames) == {}
        draft = {"content": doc("d"), "state": "edited", "version": 9, "op": None}
        for type_, payload in (
            ("draft_update", {"chatId": "c1", "content": doc("stale"), "basedOnVersion": 1}),
            ("title_update", {"chatId": "c1", "title": "t", "basedOnVersion": 0}),
            ("chat_restore", {"chatId": "c1", "draft": draft, "messagesVersion": 2}),
        ):
            answer = await two.ask(type_, payload)
            assert answer["payload"]["reason"] == "chat_deleted", answer
        sent = await two.ask("message_send", {"chatId": "c1", "clientMessageId": "m2", "content": doc("late")})
        cleared = await two.ask("draft_delete", {"chatId": "c1", "basedOnVersion": 1, "hasMessages": True})
        assert sent["type"] == cleared["type"] == "chat_deleted"
        assert (await two.ask("chats_request", {"ids": ["c1"]}))["payload"]["chats"] == []


async def test_a_deletion_that_stopped_half_way_is_finished_by_whoever_meets_the_chat(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Semantics §8: accepted, and its key service failed: nothing more is accepted, and the next look ends it."""
    cipher = server.context.parts.cipher
    destroy = cipher.destroy

    async def fails_once(key: KeyReference) -> None:
        monkeypatch.setattr(cipher, "destroy", destroy)
        raise ConnectionError("killed for the test")

    async with devices(server, 2) as (one, two):
        meetings: list[tuple[str, dict[str, Any]]] = [
            ("draft_update", {"content": doc("x"), "basedOnVersion": 0}),
            ("title_update", {"title": "x", "basedOnVersion": 0}),
            ("message_send", {"clientMessageId": "m2", "content": doc("x")}),
            ("draft_delete", {"basedOnVersion": 0, "hasMessages": True}),
            ("chat_restore", {"messagesVersion": 9}),
            ("messages_request", {"limit": 5}),
            ("chat_delete", {}),
            ("sync_request", {}),
        ]
        for number, (type_, payload) in enumerate(meetings):
            chat = f"c{number}"
            await say(one, chat, "m1", doc("m"))
            await settled(server)
            monkeypatch.setattr(cipher, "destroy", fails_once)
            failed = await one.ask("chat_delete", {"chatId": chat})
            assert (failed["type"], failed["payload"]["code"]) == ("error", "internal")
            if type_ == "sync_request":
                frames = await two.sync(chats=[named(chat, messages=2)])
                assert [gone["id"] for gone in frames[-1]["deleted"]] == [two.full(chat)]
            else:
                answer = await two.ask(type_, {"chatId": chat, **payload})
                outcome = (answer["type"], answer["payload"].get("reason"), answer["payload"].get("code"))
                assert outcome in (
                    ("draft_conflict", "chat_deleted", None),
                    ("title_conflict", "chat_deleted", None),
                    ("chat_deleted", None, None),
                    ("error", None, "not_found"),
                ), (type_, answer)
            gone = await one.event("chat_deleted")
            assert gone["chatId"] == one.full(chat)
            assert list(await cipher.destroyed(UserHash(one.user), [ChatId(one.full(chat))])) == [one.full(chat)]


async def test_a_key_that_was_destroyed_means_deleted_everywhere(serve: Serve, tmp_path: Path) -> None:
    """Semantics §8: the mark outlives the cache: for edits, restores, fills and sync; the row that still stands goes."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        chats = [f"c{number}" for number in range(8)]
        for chat in chats:
            await say(one, chat, "m1", doc("m"))
        await settled(server)
        parts = server.context.parts
        user = UserHash(one.user)
        for chat in chats:  # as an operator does, or another process before it was killed and its cache lost
            key = await parts.cipher.begin(user, ChatId(one.full(chat)))
            await parts.cipher.destroy(key)
            parts.references.drop(user, ChatId(one.full(chat)))
        await parts.cache.chats.drop(user, None)
        assert len(rows(tmp_path, "SELECT 1 FROM chats")) == 8
        answers = [
            await one.ask("draft_update", {"chatId": "c0", "content": doc("x"), "basedOnVersion": 0}),
            await one.ask("draft_update", {"chatId": "c1", "content": doc("x"), "basedOnVersion": 3}),
            await one.ask("title_update", {"chatId": "c2", "title": None, "basedOnVersion": 0}),
            await one.ask("chat_restore", {"chatId": "c3", "messagesVersion": 9}),
        ]
        assert [answer["payload"]["reason"] for answer in answers] == ["chat_deleted"] * 4
        sent = await one.ask("message_send", {"chatId": "c4", "clientMessageId": "m2", "content": doc("x")})
        cleared = await one.ask("draft_delete", {"chatId": "c5", "basedOnVersion": 0, "hasMessages": True})
        assert sent["type"] == cleared["type"] == "chat_deleted"
        page = await one.ask("messages_request", {"chatId": "c6", "limit": 5})
        assert page["payload"]["code"] == "not_found"
        frames = await two.sync(chats=[named("c7", messages=2), named("c6", messages=2)])
        assert {gone["id"] for gone in frames[-1]["deleted"]} == {two.full("c6"), two.full("c7")}
        assert chats_of(frames) == {}
        await settled(server)
        await until(lambda: rows(tmp_path, "SELECT 1 FROM chats") == rows(tmp_path, "SELECT 1 FROM messages") == [])
