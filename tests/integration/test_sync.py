"""Sync in phases and by cursor: S38–S47, S73 (semantics §6)."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar import ChatId, KeyReference, UserHash
from sidecar.server.running import Server
from sidecar.testing.frames import check as check_frame
from tests.conftest import Serve
from tests.device import Device, Frame, doc
from tests.integration.world import (
    AT_ONCE,
    begin,
    cached,
    chats_of,
    devices,
    held,
    record,
    rows,
    say,
    settled,
    slow_reads,
    store_away,
    until,
)

FAST = {"frames_per_second": 5000, "burst": 5000}


async def many_messages(device: Device, chats: range, **more: Any) -> None:
    """A chat with one message for each number, in this order."""
    ids = [
        await device.send(
            "message_send", {"tempChatId": f"c{number}", "clientMessageId": "m1", "content": doc(f"{number}"), **more}
        )
        for number in chats
    ]
    for id_ in ids:
        answer = await device.answer(id_)
        assert answer["type"] == "message_accepted", answer


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


def named(chat: str, version: int = 0, title: int = 0, messages: int = 0, op: str | None = None) -> dict[str, Any]:
    """What a device says that it holds."""
    return {"id": chat, "version": version, "op": op, "titleVersion": title, "messagesVersion": messages}


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


async def test_s40_what_happens_while_a_sync_reads_arrives_after_it(serve: Serve) -> None:
    """S40: a client applies nothing between its `sync_request` and `complete`: what comes meanwhile must come afterwards."""
    async with serve(limits=FAST) as server, devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("hello"))
        await begin(one, "c2", doc("old"))
        await settled(server)
        cursor = (await two.sync())[-1]["cursor"]
        await server.context.parts.cache.chats.drop(UserHash(one.user), [ChatId(one.full("c1"))])
        two.events.clear()
        with slow_reads(server) as (hanging, go_on):
            sync = await two.send("sync_request", {"cursor": cursor, "chats": [named("c1", messages=2)]})
            await hanging.wait()
            await one.ask("draft_update", {"chatId": "c2", "content": doc("meanwhile"), "basedOnVersion": 1})
            assert await two.quiet(0.1) == []
            go_on.set()
            answer = await two.answer(sync)
        assert (answer["type"], answer["payload"]["complete"]) == ("sync_delta", True)
        assert chats_of([answer["payload"]]) == {}
        event = await two.event("draft_updated")
        assert (event["version"], event["content"]) == (2, doc("meanwhile"))


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


async def test_s42_a_cold_cache_with_500_chats_in_the_store(serve: Serve, tmp_path: Path) -> None:
    """S42: all of them arrive, never an empty list, and the count is the store's; messages of one are there on demand."""
    async with serve(limits=FAST) as server, devices(server, 1) as (one,):
        await many_messages(one, range(500))
        await settled(server)
    shutil.rmtree(tmp_path / "data" / "cache")
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


async def test_s45_warming_up_while_somebody_writes_keeps_what_was_written(serve: Serve) -> None:
    """S45: the store is read for a second device while the first one edits: the newer value survives in cache and store."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        await say(one, "c1", "m1", doc("m"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("old"), "basedOnVersion": 0})
        await settled(server)
        await server.context.parts.cache.chats.drop(UserHash(one.user), [ChatId(one.full("c1"))])
        with slow_reads(server) as (hanging, go_on):
            warming = [
                await two.send("messages_request", {"chatId": "c1", "limit": 5}),
                await two.send("sync_request", {}),
            ]
            await hanging.wait()
            edit = await one.send("draft_update", {"chatId": "c1", "content": doc("new"), "basedOnVersion": 1})
            await asyncio.sleep(0.05)
            go_on.set()
            assert (await one.answer(edit))["payload"]["version"] == 2
            assert (await two.answer(warming[0]))["type"] == "messages_page"
        chat = await cached(server, one.full("c1"))
        assert chat is not None
        assert chat.version == 2
        assert (await record(two, "c1"))["draft"] == doc("new")


async def test_s74_a_slow_fill_installs_nothing_old(serve: Serve) -> None:
    """S74: while the store is read an edit is accepted, stored and evicted; what was read before is not put in its place."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        parts = server.context.parts
        await say(one, "c1", "m1", doc("m"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("old"), "basedOnVersion": 0})
        await settled(server)
        user, chat_id = UserHash(one.user), ChatId(one.full("c1"))
        await parts.cache.chats.drop(user, [chat_id])
        with slow_reads(server) as (hanging, go_on):
            page = await two.send("messages_request", {"chatId": "c1", "limit": 5})
            await hanging.wait()
            with pytest.MonkeyPatch.context() as patch:
                connections = parts.store._connections  # type: ignore[attr-defined]  # of persistence.sqlite
                patch.setattr(connections, "read", type(connections).read.__get__(connections))
                edited = await one.ask("draft_update", {"chatId": "c1", "content": doc("new"), "basedOnVersion": 1})
                assert edited["payload"]["version"] == 2
                await settled(server)
                await parts.cache.chats.drop(user, [chat_id])
                assert await cached(server, chat_id) is None
            go_on.set()
            assert (await two.answer(page))["type"] == "messages_page"
        assert await cached(server, chat_id) is None
        stale = await two.ask("draft_update", {"chatId": "c1", "content": doc("stale"), "basedOnVersion": 1})
        assert (stale["type"], stale["payload"]["content"]) == ("draft_conflict", doc("new"))


async def test_s46_a_corrupt_row_is_flagged_and_the_others_sync(serve: Serve, tmp_path: Path) -> None:
    """S46: a version that is null, a title that does not open, a message that is damaged."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        for chat in ("good", "title", "version", "message"):
            await say(one, chat, "m1", doc(chat))
            await one.ask("title_update", {"chatId": chat, "title": f"title of {chat}", "basedOnVersion": 0})
            await one.ask("draft_update", {"chatId": chat, "content": doc(f"draft of {chat}"), "basedOnVersion": 0})
        await settled(server)
        full = one.full
    rows(tmp_path, "UPDATE chats SET title = X'00112233' WHERE id = ?", full("title"))
    rows(tmp_path, "UPDATE chats SET version = NULL WHERE id = ?", full("version"))
    rows(tmp_path, "UPDATE messages SET content = X'00' WHERE chat_id = ?", full("message"))
    shutil.rmtree(tmp_path / "data" / "cache")
    async with serve(drafts=AT_ONCE) as server, Device(server.url) as one:
        frames = await one.sync()
        assert frames[-1]["complete"] is True
        chats = chats_of(frames)
        assert set(chats) == {full(chat) for chat in ("good", "title", "version", "message")}
        good = chats[full("good")]
        assert (good["draft"], good["title"], good["undecryptable"]) == (doc("draft of good"), "title of good", [])
        bad = {
            chat["id"]: frozenset(
                field
                for frame in frames
                for each in frame["chats"]
                if each["id"] == chat["id"]
                for field in each["undecryptable"]
            )
            for chat in chats.values()
        }
        message = chats[full("message")]["messages"][0]
        assert message["content"] is None
        assert bad == {
            full("good"): frozenset(),
            full("title"): {"title"},
            full("version"): {"draft"},
            full("message"): {message["id"]},
        }
        assert (chats[full("title")]["title"], chats[full("title")]["draft"]) == (None, doc("draft of title"))


async def test_s47_what_is_partly_gone_from_the_cache_syncs_as_from_the_store(serve: Serve) -> None:
    """S47: half of the chats were dropped: the same answer, and no null in the place of a text."""
    async with serve(limits=FAST, drafts=AT_ONCE, chats={"active": 50}) as server, devices(server, 1) as (one,):
        await many_messages(one, range(12))
        for number in range(12):
            await one.ask("draft_update", {"chatId": f"c{number}", "content": doc(f"d{number}"), "basedOnVersion": 0})
            await one.ask("title_update", {"chatId": f"c{number}", "title": f"t{number}", "basedOnVersion": 0})
        await settled(server)
        whole = chats_of(await one.sync())
        half = [ChatId(one.full(f"c{number}")) for number in range(0, 12, 2)]
        await server.context.parts.cache.chats.drop(UserHash(one.user), half)
        assert await cached(server, half[0]) is None
        assert await cached(server, one.full("c1")) is not None
        assert chats_of(await one.sync()) == whole
        assert all(chat["draft"] is not None and chat["title"] is not None for chat in whole.values())


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


async def test_resync_is_asked_for_when_the_log_is_another_one(server: Server) -> None:
    """Semantics §6: the end and epoch of the log are looked at every 2 s, by every connected device's feed."""
    async with devices(server, 2) as (one, two):
        await begin(one, "c1", doc("x"))
        await two.event("chat_added")
        await server.context.parts.cache.chats.drop(UserHash(one.user), None)
        for device in (one, two):
            assert (await device.event("resync_required"))["reason"] == "epoch_changed"
        frames = await one.sync(chats=[named("c1", version=1)])
        assert frames[-1]["missing"] == [one.full("c1")]


async def test_no_frame_is_larger_than_the_limit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Semantics §6: with the largest drafts and messages; messages are cut to fit and say that there are more."""
    limit = 96 * 1024
    sizes: list[tuple[str, int]] = []

    def measuring(frame: Frame) -> None:
        sizes.append((frame["type"], len(orjson.dumps(frame))))
        check_frame(frame)

    monkeypatch.setattr("tests.device.check", measuring)
    large = {"drafts": {"max_bytes": "32KiB", **AT_ONCE}, "messages": {"max_bytes": "32KiB"}}
    async with serve(limits=FAST, sync={"max_frame": "96KiB", "recent": 4}, **large) as server:
        async with devices(server, 1) as (one,):
            cursor = (await one.sync())[-1]["cursor"]
            big = doc("ü" * 16_300)
            for chat in range(6):
                for message in range(4):
                    await say(one, f"c{chat}", f"m{message}", big)
                await one.ask("draft_update", {"chatId": f"c{chat}", "content": big, "basedOnVersion": 0})
                await one.ask("title_update", {"chatId": f"c{chat}", "title": '"' * 500, "basedOnVersion": 0})
            for message in range(240):
                await say(one, "small", f"{message:064d}", doc("x" * 150))
            await settled(server)
            sizes.clear()
            runs = [await one.sync(), await one.sync(lastOpenChatId="c0"), await one.sync(cursor=cursor)]
            runs.append(await one.sync(lastOpenChatId="small"))
            for frames in runs:
                assert frames[-1]["complete"] is True
                chats = chats_of(frames)
                assert len(chats) == 7
                assert all(chat["draft"] == big for chat_id, chat in chats.items() if not chat_id.endswith("small"))
            recent = chats_of(runs[0])[one.full("c5")]
            assert (len(recent["messages"]), recent["has_more_messages"]) == (2, True)
            assert [m["sequence"] for m in recent["messages"]] == [3, 4]
            open_one = chats_of(runs[3])[one.full("small")]
            assert len(open_one["messages"]) < 240
            assert open_one["has_more_messages"] is True
            page = (await one.ask("messages_request", {"chatId": "c0", "limit": 10}))["payload"]
            assert ([m["sequence"] for m in page["messages"]], page["hasMore"]) == ([3, 4], True)
            page = (await one.ask("messages_request", {"chatId": "small", "limit": 200}))["payload"]
            assert page["hasMore"] is True
            many = (await one.ask("chats_request", {"ids": [f"c{chat}" for chat in range(6)]}))["payload"]
            assert (len(many["chats"]), many["hasMore"]) == (2, True)
        largest = max(size for _, size in sizes)
        assert largest <= limit, sorted(sizes, key=lambda each: each[1])[-3:]
        assert largest > limit * 2 // 3  # and the room is used


async def test_on_one_socket_cursors_come_in_the_order_of_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Semantics §6: a cursor leaves only after everything before it: events and answers of a busy person never go back."""
    arrived: dict[object, list[int]] = {}

    def noting(frame: Frame) -> None:
        check_frame(frame)
        if "cursor" in frame["payload"] and frame["type"] not in ("sync_delta", "initial_sync_data"):
            arrived.setdefault(asyncio.current_task(), []).append(int(frame["payload"]["cursor"].split(".")[1]))

    monkeypatch.setattr("tests.device.check", noting)
    async with serve(limits=FAST, drafts=AT_ONCE) as server, devices(server, 4) as busy:
        sent: list[tuple[Device, str]] = []
        for round_ in range(25):
            for number, device in enumerate(busy):
                chat = f"c{(round_ + number) % 5}"
                for type_, payload in (
                    ("draft_update", {"tempChatId": chat, "content": doc(f"{round_}"), "basedOnVersion": round_ // 5}),
                    (
                        "message_send",
                        {"tempChatId": chat, "clientMessageId": f"{number}-{round_}", "content": doc("m")},
                    ),
                    ("title_update", {"chatId": chat, "title": f"{number}", "basedOnVersion": round_ // 5}),
                ):
                    sent.append((device, await device.send(type_, payload)))
            if round_ % 8 == 3:
                await busy[0].sync()
        for device, id_ in sent:
            await device.answer(id_)
        await settled(server)
        await until(lambda: all(offsets[-1] == max(map(max, arrived.values())) for offsets in arrived.values()))
    assert len(arrived) == 4
    for offsets in arrived.values():
        assert len(offsets) > 150
        assert offsets == sorted(offsets)


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
