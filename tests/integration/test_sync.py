"""Sync in phases and by cursor: S38–S43, S73 (semantics §6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar import UserHash
from sidecar.server.running import Server
from tests.conftest import Serve, WipeCache
from tests.device import Device, doc
from tests.integration.world import (
    FAST,
    begin,
    chats_of,
    devices,
    held,
    many_messages,
    named,
    say,
    settled,
    store_away,
)

pytestmark = pytest.mark.caches("memory", "redis")


async def one_after_the_other(device: Device, chats: range) -> None:
    """As `many_messages`, each chat at a time of its own, so that it is known which is the most recent."""
    for number in chats:
        await say(device, f"c{number}", "m1", doc(f"{number}"))
        await asyncio.sleep(0.002)


async def test_s38_a_fresh_device_gets_phases_in_their_order(serve: Serve) -> None:
    """S38: the open chat, the recent ones, their messages, the rest; `complete` only at the end; the count is the store's."""
    async with serve(limits=FAST, sync={"recent": 5}) as server:
        async with Device(server.url) as writer:
            await one_after_the_other(writer, range(20))
            await settled(server)
            await begin(writer, "draft-only", doc("unsent"))
        async with Device(server.url) as fresh:
            frames = await fresh.sync(lastOpenChatId="c3")
            phases = list(dict.fromkeys(frame["phase"] for frame in frames))
            assert phases == ["active", "recent", "recent_content", "rest"]
            assert [frame["complete"] for frame in frames] == [False] * (len(frames) - 1) + [True]
            assert {frame["total"] for frame in frames} == {21}
            assert {frame["lastOpenChatId"] for frame in frames} == {fresh.full("c3")}
            assert len({frame["cursor"] for frame in frames}) == 1
            assert not [frame for frame in frames if "failed" in frame]
            by_phase = {phase: [f for f in frames if f["phase"] == phase] for phase in phases}
            [active] = chats_of(by_phase["active"]).values()
            assert active["id"] == fresh.full("c3")
            assert [message["content"] for message in active["messages"]] == [doc("3")]
            recent = chats_of(by_phase["recent"])
            assert list(recent) == [fresh.full(name) for name in ("draft-only", "c19", "c18", "c17", "c16")]
            assert not [chat for chat in recent.values() if "messages" in chat]
            contents = chats_of(by_phase["recent_content"])
            assert list(contents) == list(recent)[1:]
            assert all("draft" not in chat and len(chat["messages"]) == 1 for chat in contents.values())
            rest = chats_of(by_phase["rest"])
            assert set(rest) == {fresh.full(f"c{number}") for number in range(16) if number != 3}
            assert all("messages" not in chat and "draft" in chat for chat in rest.values())


async def test_s38_a_phase_that_fails_says_so_and_nothing_is_complete(serve: Serve) -> None:
    """S38, S21: the store fails in the middle; the frames that came do not count, and nobody clears anything."""
    async with serve(limits=FAST, sync={"recent": 2}) as server:
        async with Device(server.url) as writer:
            await one_after_the_other(writer, range(8))
            await settled(server)
        async with Device(server.url) as fresh:
            with store_away(server, writes=False) as refused:
                frames = await fresh.sync(lastOpenChatId="c7", chats=[named("c1", version=3)])
            assert refused
            assert not any(frame.get("complete") for frame in frames)
            *said, end = frames
            assert (end["·type"], end["code"], end["retryable"]) == ("error", "unavailable", True)
            assert [frame["phase"] for frame in said] == ["active", "recent"]
            assert said[-1]["failed"]["code"] == "unavailable"
            assert said[-1]["failed"]["details"]["part"] == "persistence"
            assert [frame for frame in said if frame["missing"] or frame["deleted"]] == []
            again = await fresh.sync()
            assert again[-1]["complete"] is True
            assert len(chats_of(again)) == 8


async def test_s39_nothing_changed_is_no_chat_and_one_changed_field_is_that_field(server: Server) -> None:
    """S39: by cursor, with what the device holds."""
    async with devices(server, 1) as (one,):
        await say(one, "c1", "m1", doc("hello"))
        await begin(one, "c2", doc("draft"))
        await settled(server)
        frames = await one.sync()
        chats = chats_of(frames)
        [same] = await one.sync(cursor=frames[-1]["cursor"], chats=[held(chat) for chat in chats.values()])
        assert (same["·type"], same["chats"], same["missing"], same["deleted"]) == ("sync_delta", [], [], [])
        await one.ask("title_update", {"chatId": "c2", "title": "T", "basedOnVersion": 0})
        [titled] = await one.sync(cursor=same["cursor"])
        [chat] = titled["chats"]
        assert (chat["id"], chat["title"], chat["title_version"]) == (one.full("c2"), "T", 1)
        assert not {"draft", "version", "messages", "messages_version"} & set(chat)
        await one.ask("draft_update", {"chatId": "c2", "content": doc("more"), "basedOnVersion": 1})
        [edited] = await one.sync(cursor=titled["cursor"])
        [chat] = edited["chats"]
        assert (chat["draft"], chat["version"]) == (doc("more"), 2)
        assert not {"title", "title_version", "messages"} & set(chat)
        sent = await say(one, "c1", "m2", doc("again"))
        await settled(server)
        [messaged] = await one.sync(cursor=edited["cursor"])
        [chat] = messaged["chats"]
        assert [(m["id"], m["status"]) for m in chat["messages"]] == [(sent["message"]["id"], "delivered")]
        assert not {"title", "draft"} & set(chat)
        assert chat["messages_version"] == 4


async def test_s40_after_a_gap_exactly_what_was_missed_arrives(server: Server) -> None:
    """S40: coalesced per chat, then live again, no event of the gap a second time."""
    async with devices(server, 2) as (one, two):
        await begin(one, "kept", doc("k"))
        await begin(one, "edited", doc("e1"))
        await begin(one, "gone", doc("g"))
        cursor = (await two.sync())[-1]["cursor"]
        await two.close()
        for base in range(1, 4):
            await one.ask("draft_update", {"chatId": "edited", "content": doc(f"e{base + 1}"), "basedOnVersion": base})
        await one.ask("title_update", {"chatId": "edited", "title": "E", "basedOnVersion": 0})
        await one.ask("chat_delete", {"chatId": "gone"})
        await begin(one, "added", doc("a"))
        await say(one, "messages", "m1", doc("m"))
        await settled(server)
        await two.open()
        [delta] = await two.sync(cursor=cursor)
        assert delta["·type"] == "sync_delta"
        chats = {chat["id"]: chat for chat in delta["chats"]}
        assert list(chats) == [two.full(chat) for chat in ("edited", "added", "messages")]
        edited = chats[two.full("edited")]
        assert (edited["draft"], edited["version"], edited["title"]) == (doc("e4"), 4, "E")
        assert chats[two.full("added")]["draft"] == doc("a")
        assert [m["content"] for m in chats[two.full("messages")]["messages"]] == [doc("m")]
        assert [gone["id"] for gone in delta["deleted"]] == [two.full("gone")]
        await one.ask("draft_update", {"chatId": "kept", "content": doc("k2"), "basedOnVersion": 1})
        assert (await two.event("draft_updated"))["content"] == doc("k2")
        assert two.events == []


@pytest.mark.parametrize("kind", ["none of ours", "another epoch", "a later epoch", "beyond the end", "another tag"])
async def test_s41_a_cursor_that_is_not_known_is_answered_by_a_full_sync_that_says_so(
    server: Server, kind: str
) -> None:
    """S41: whatever is wrong with it."""
    async with devices(server, 1) as (one,):
        await begin(one, "c1", doc("x"))
        frames = await one.sync()
        epoch, offset, tag = frames[-1]["cursor"].split(".")
        cursor = {
            "none of ours": "of another server",
            "another epoch": f"{'0' * 20}.{offset}.{tag}",
            "a later epoch": f"{int(epoch, 16) + 2**40:020x}.{offset}.{tag}",
            "beyond the end": f"{epoch}.{int(offset) + 5}.{tag}",
            "another tag": f"{epoch}.{offset}.ffffffff",
        }[kind]
        frames = await one.sync(cursor=cursor, chats=[held(chat) for chat in chats_of(frames).values()])
        assert {frame["·type"] for frame in frames} == {"initial_sync_data"}
        reason = "cursor_expired" if kind == "none of ours" else "epoch_changed"
        assert {frame["reason"] for frame in frames} == {reason}
        assert frames[-1]["complete"] is True
        assert frames[-1]["missing"] == frames[-1]["deleted"] == []
        assert chats_of(frames)[one.full("c1")]["draft"] == doc("x")
        later = kind in ("a later epoch", "beyond the end", "another tag")
        assert (frames[-1]["cursor"].split(".")[0] != epoch) is later  # these show that the cache went back
        [delta] = await one.sync(cursor=frames[-1]["cursor"])
        assert delta["·type"] == "sync_delta"


async def test_s41_f52_a_cursor_that_was_trimmed_is_a_full_sync_and_no_gap(serve: Serve) -> None:
    """S41, F52: in the same epoch only what differs is sent."""
    async with serve(limits=FAST, sync={"events_kept": 100}) as server, devices(server, 2) as (one, two):
        await begin(one, "c1", doc("1"))
        await begin(one, "still", doc("still"))
        frames = await two.sync()
        names = [held(chat) for chat in chats_of(frames).values()]
        await two.close()
        for base in range(1, 120):
            await one.ask("draft_update", {"chatId": "c1", "content": doc(str(base + 1)), "basedOnVersion": base})
        await two.open()
        answer = await two.sync(cursor=frames[-1]["cursor"], chats=names)
        assert {frame["reason"] for frame in answer} == {"cursor_expired"}
        assert list(chats_of(answer)) == [two.full("c1")]
        assert chats_of(answer)[two.full("c1")]["draft"] == doc("120")


async def test_s42_a_cold_cache_with_500_chats_in_the_store(serve: Serve, wipe_cache: WipeCache) -> None:
    """S42: all of them arrive, never an empty list, and the count is the store's; messages of one are there on demand."""
    async with serve(limits=FAST) as server, devices(server, 1) as (one,):
        await many_messages(one, range(500))
        await settled(server)
    await wipe_cache()
    async with serve(limits=FAST) as server, Device(server.url) as one:
        frames = await one.sync()
        chats = chats_of(frames)
        assert set(chats) == {one.full(f"c{number}") for number in range(500)}
        assert {frame["total"] for frame in frames} == {500}
        assert all(chat["persisted"] and chat["messages_version"] == 2 for chat in chats.values())
        page = await one.ask("messages_request", {"chatId": "c250", "limit": 10})
        assert [m["content"] for m in page["payload"]["messages"]] == [doc("250")]


async def test_older_chats_come_on_demand(serve: Serve) -> None:
    """Semantics §6: a full sync brings `sync.total`; beyond it pages by place, newest first, nothing twice and nothing left out."""
    async with serve(limits=FAST, sync={"recent": 3, "total": 10}) as server, Device(server.url) as one:
        await many_messages(one, range(30))
        await settled(server)
        for number in range(3):
            await begin(one, f"draft{number}", doc("d"))
        frames = await one.sync()
        assert len(chats_of(frames)) == 10
        assert {frame["total"] for frame in frames} == {33}
        names: list[str] = []
        before: dict[str, Any] = {}
        more = True
        while more:
            page = (await one.ask("chats_request", {"limit": 7, **before}))["payload"]
            names += [chat["id"] for chat in page["chats"]]
            last = page["chats"][-1]
            before, more = {"before": {"timestamp": last["updated_at"], "id": last["id"]}}, page["hasMore"]
        assert sorted(names) == sorted(set(names))
        assert set(names) == {one.full(f"c{n}") for n in range(30)} | {one.full(f"draft{n}") for n in range(3)}


async def test_s43_a_chat_that_nobody_here_knows_is_kept_and_offered_for_upload(server: Server) -> None:
    """S43: `missing`, not `deleted`; the restore brings it back, revision and all, and everybody gets it."""
    async with devices(server, 2) as (one, two):
        offline = named("offline", version=4, title=2, op="operation-of-the-fourth")
        for cursor in ({}, {"cursor": (await one.sync())[-1]["cursor"]}):
            frames = await one.sync(chats=[offline], **cursor)
            assert frames[-1]["complete"] is True
            assert (frames[-1]["missing"], frames[-1]["deleted"]) == ([one.full("offline")], [])
        answer = await one.ask(
            "chat_restore",
            {
                "chatId": "offline",
                "draft": {"content": doc("mine"), "state": "edited", "version": 4, "op": "operation-of-the-fourth"},
                "title": {"title": "Mine", "version": 2, "op": None},
                "messagesVersion": 0,
            },
        )
        assert (answer["type"], answer["payload"]["chat"]["version"]) == ("chat_restored", 4)
        assert "replaced" not in answer["payload"]
        restored = await two.event("chat_restored")
        assert (restored["chat"]["draft"], restored["chat"]["draft_op"]) == (doc("mine"), "operation-of-the-fourth")
        assert (restored["chat"]["title"], restored["chat"]["title_version"]) == ("Mine", 2)
        edited = await two.ask("draft_update", {"chatId": "offline", "content": doc("on"), "basedOnVersion": 4})
        assert edited["payload"]["version"] == 5


async def test_s73_a_connection_lost_between_two_phases_misses_nothing(serve: Serve) -> None:
    """S73: cursors count only once `complete` was seen; with what it got so far the next sync brings the later phases."""
    async with serve(limits=FAST, sync={"recent": 3}) as server:
        async with Device(server.url) as writer:
            await one_after_the_other(writer, range(12))
            await settled(server)
        device = Device(server.url)
        await device.open()
        id_ = await device.send("sync_request", {})
        first = [(await device.answer(id_))["payload"] for _ in range(2)]
        assert [frame["phase"] for frame in first] == ["active", "recent"]
        await device.cut()
        await device.open()
        try:
            names = [held(chat) for chat in chats_of(first).values()]
            frames = await device.sync(chats=names)
            assert frames[-1]["complete"] is True
            chats = {**chats_of(first)}
            for chat_id, chat in chats_of(frames).items():
                chats.setdefault(chat_id, {}).update(chat)
            assert len(chats) == 12
            recent = [device.full(f"c{number}") for number in (11, 10, 9)]
            assert all(chats[chat]["messages"] for chat in recent)
        finally:
            await device.close()


async def test_after_a_new_epoch_messages_are_sent_whole_whatever_was_named(server: Server) -> None:
    """Semantics §6: numbers of an older epoch say nothing, also where the client sends no cursor, as after `resync_required`."""
    async with devices(server, 1) as (one,):
        sent = await say(one, "c1", "m1", doc("m"))
        await settled(server)
        cursor = (await one.sync())[-1]["cursor"]
        holds = [named("c1", messages=2)]
        await server.context.parts.cache.chats.drop(UserHash(one.user), None)
        for more in ({"cursor": cursor}, {}):
            chats = chats_of(await one.sync(chats=holds, **more))
            assert [m["id"] for m in chats[one.full("c1")]["messages"]] == [sent["message"]["id"]]
