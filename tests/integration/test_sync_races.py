"""What happens while a sync or a fill reads, and in which order it arrives: S40, S45, S74 (semantics §6, §7)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sidecar import ChatId, FillToken, UserHash
from sidecar.changes import Change, NewEpoch, Outcome, Stored
from sidecar.chats import own_change
from sidecar.server.running import Server
from sidecar.testing.frames import check as check_frame
from tests.conftest import Serve
from tests.device import Device, Frame, doc
from tests.integration.world import (
    AT_ONCE,
    FAST,
    begin,
    cached,
    chats_of,
    devices,
    named,
    of_message,
    record,
    say,
    settled,
    slow_reads,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")


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


async def test_a_chat_that_a_new_epoch_kept_out_of_the_cache_does_not_begin_anew(serve: Serve) -> None:
    """Semantics §2, §7: found in the store, not filled since the epoch changed meanwhile: that is no proof that nobody has it."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        chats = server.context.parts.cache.chats
        await say(one, "c1", "m1", doc("m"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("old"), "basedOnVersion": 0})
        await settled(server)
        user, chat_id = UserHash(one.user), ChatId(one.full("c1"))
        await chats.drop(user, [chat_id])
        with slow_reads(server) as (hanging, go_on):
            edit = await one.send("draft_update", {"tempChatId": "c1", "content": doc("late"), "basedOnVersion": 0})
            await hanging.wait()
            epoch = (await chats.events(user, None, 0)).head.epoch
            await chats.commit(own_change(server.context.parts, user, chat_id, NewEpoch(epoch)))
            go_on.set()
            answer = await one.answer(edit)
        assert (answer["type"], answer["payload"]["content"]) == ("draft_conflict", doc("old"))
        chat = await record(one, "c1")
        assert (chat["version"], chat["messages_version"]) == (1, 2)


async def test_a_message_read_back_while_it_is_delivered_is_still_told_to_be_delivered(serve: Serve) -> None:
    """Semantics §4: the store has it, its status does not: a page that meets both in between takes no event away."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 2) as (one, two):
        chats = server.context.parts.cache.chats
        await say(one, "c1", "m1", doc("m"))
        await settled(server)
        await chats.drop(UserHash(one.user), [ChatId(one.full("c1"))])
        for device in (one, two):
            await device.quiet(0.05)
            device.events.clear()
        asked, sent, told = asyncio.Event(), asyncio.Event(), asyncio.Event()
        prepare, commit = chats.prepare, chats.commit

        async def after_the_message(user: UserHash, ids: Sequence[ChatId]) -> FillToken:
            if not asked.is_set():
                asked.set()
                await sent.wait()
            return await prepare(user, ids)

        async def late(change: Change) -> Outcome:
            if isinstance(change.what, Stored):
                sent.set()
                await told.wait()
            return await commit(change)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chats, "prepare", after_the_message)
            patch.setattr(chats, "commit", late)
            page = await two.send("messages_request", {"chatId": "c1", "limit": 5})
            await asked.wait()  # it has not found the chat in the cache, and is about to ask the store
            accepted = await say(one, "c1", "m2", doc("n"))
            assert (await two.answer(page))["type"] == "messages_page"
            told.set()
            for device in (one, two):
                update = await device.event("message_update", of_message(accepted["message"]["id"]))
                assert (update["status"], update["messagesVersion"]) == ("delivered", accepted["messagesVersion"] + 1)


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


async def test_on_one_socket_cursors_come_in_the_order_of_the_log(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Semantics §6: every event once and in order, and no answer before an event that its cursor covers."""
    arrived: dict[object, list[tuple[int, bool]]] = {}

    def noting(frame: Frame) -> None:
        check_frame(frame)
        if "cursor" in frame["payload"] and frame["type"] not in ("sync_delta", "initial_sync_data"):
            offset = int(frame["payload"]["cursor"].split(".")[1])
            arrived.setdefault(asyncio.current_task(), []).append((offset, "re" in frame))

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
        await until(lambda: len({max(frames)[0] for frames in arrived.values()}) == 1)
    assert len(arrived) == 4
    for frames in arrived.values():
        events = [offset for offset, answer in frames if not answer]
        assert len(events) > 100
        assert events == sorted(set(events))
        covered = 0
        for offset, answer in frames:
            assert answer or offset > covered, "an answer went ahead of this event"
            covered = max(covered, offset) if answer else covered
