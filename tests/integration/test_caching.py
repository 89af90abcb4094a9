"""What stays in the cache and for how long: S22, S48, F15, F50 (semantics §7)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from plugins.cache.memory_chats import MemoryChats
from plugins.cache.memory_leases import MemoryLeases
from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_layout import PERSON
from plugins.cache.redis_sweep import sweep_once
from sidecar import ChatId, Unstorable, UserHash
from sidecar.server.running import Server
from tests.conftest import Serve
from tests.device import Device, doc
from tests.integration.test_outbox import STORE, store_of
from tests.integration.world import (
    AT_ONCE,
    NEVER,
    begin,
    cached,
    chats_of,
    devices,
    fields_of_person,
    held,
    key_count,
    of_chat,
    record,
    rows,
    say,
    settled,
    store_away,
    until,
)

pytestmark = pytest.mark.caches("memory", "redis")

DAY = 86_400.0


class Clock:
    """The time of the cache, which can be moved on."""

    def __init__(self, server: Server) -> None:
        self._cache = server.context.parts.cache
        self._worker = server.context.worker
        self._ahead = 0.0
        chats = self._cache.chats
        if isinstance(chats, MemoryChats):
            clock = chats._state.clock
            chats._state.clock = lambda: clock() + self._ahead
            cast("MemoryLeases", self._cache.leases)._clock = chats._state.clock

    async def polled(self, user: UserHash) -> float:
        """When somebody last looked at this person's log."""
        chats = self._cache.chats
        if isinstance(chats, MemoryChats):
            return chats._state.persons[user].polled
        return float((await fields_of_person(chats, user))[PERSON.index("p_polled")]) / 1000

    def move(self, seconds: float) -> None:
        """So much time passes, and nobody takes any notice."""
        self._ahead += seconds
        if not isinstance(self._cache.chats, MemoryChats):
            cast("RedisChats", self._cache.chats)._settings.skew = self._ahead

    async def travel(self, seconds: float) -> None:
        """So much time passes, and what is over goes; leases are taken again, as is done every 2 s."""
        self.move(seconds)
        chats = self._cache.chats
        if isinstance(chats, MemoryChats):
            chats._state.sweep(chats._state.clock(), 10_000)
        else:
            redis = cast("RedisChats", chats)
            await sweep_once(redis._link, redis._settings, redis)
        await self._worker._take()


async def test_s22_after_a_day_a_persisted_draft_is_there_and_a_draft_only_chat_comes_back_from_its_device(
    serve: Serve,
) -> None:
    """S22: all devices closed for a day; versions still rise."""
    async with serve(drafts=AT_ONCE) as server:
        clock = Clock(server)
        async with devices(server, 1) as (one,):
            await say(one, "persisted", "m1", doc("m"))
            await one.ask("draft_update", {"chatId": "persisted", "content": doc("kept"), "basedOnVersion": 0})
            await begin(one, "only", doc("unsent"))
            await one.ask("draft_update", {"chatId": "only", "content": doc("unsent 2"), "basedOnVersion": 1})
            only = await record(one, "only")
            await settled(server)
            cursor = (await one.sync())[-1]["cursor"]
            named = [held(await record(one, chat)) for chat in ("persisted", "only")]
            ids = [one.full("persisted"), one.full("only")]
        await clock.travel(DAY + 60)
        async with Device(server.url) as fresh:
            assert [await cached(server, chat) for chat in ids] == [None, None]
            chats = chats_of(await fresh.sync())
            assert list(chats) == ids[:1]
            assert (chats[ids[0]]["draft"], chats[ids[0]]["version"]) == (doc("kept"), 1)
            async with Device(server.url) as one:
                frames = await one.sync(cursor=cursor, chats=named)
                assert frames[-1]["missing"] == [ids[1]]
                assert frames[-1]["deleted"] == []
                draft = {"content": only["draft"], "state": "edited", "version": 2, "op": only["draft_op"]}
                restored = await one.ask("chat_restore", {"chatId": ids[1], "draft": draft, "messagesVersion": 0})
                assert (restored["type"], restored["payload"]["chat"]["version"]) == ("chat_restored", 2)
                edited = await one.ask("draft_update", {"chatId": ids[1], "content": doc("3"), "basedOnVersion": 2})
                assert edited["payload"]["version"] == 3
                assert (await record(fresh, "only"))["draft"] == doc("3")
            assert key_count(server) == 2


async def test_f15_drafts_live_on_while_a_device_of_their_owner_is_connected(serve: Serve) -> None:
    """F15: the feed looks at the log every 2 s, which keeps them; without a device they end after `chats.draft_ttl`."""
    async with serve(drafts=AT_ONCE, chats={"draft_ttl": "30m"}) as server:
        clock = Clock(server)
        async with devices(server, 1) as (one,):
            await begin(one, "c1", doc("x"))
            await settled(server)
            user = UserHash(one.user)
            for _ in range(3):
                clock.move(1700)
                before = await clock.polled(user)
                server.context.feeds.poke(user)  # as the look every 2 s does
                await until(lambda before=before: _polled_since(clock, user, before + 1600))
                await clock.travel(0)
            assert await cached(server, one.full("c1")) is not None
        await clock.travel(1900)
        found = await server.context.parts.cache.chats.read(user, [ChatId(f"{user[:8]}_c1")])
        assert found == {}


async def _polled_since(clock: Clock, user: UserHash, time: float) -> bool:
    return await clock.polled(user) > time


async def test_s22_dirty_drafts_never_expire(serve: Serve, tmp_path: Path) -> None:
    """S22: the store is away for days; what it has not got stays, and is written when it is back."""
    async with serve(drafts=AT_ONCE) as server:
        clock = Clock(server)
        async with devices(server, 1) as (one,):
            await say(one, "c1", "m1", doc("m"))
            await settled(server)
            with store_away(server):
                await one.ask("draft_update", {"chatId": "c1", "content": doc("dirty"), "basedOnVersion": 0})
                await say(one, "c1", "m2", doc("m2"))
                for _ in range(4):
                    await clock.travel(DAY)
                chat = await cached(server, one.full("c1"))
                assert chat is not None
                assert chat.version == 1
        await settled(server)
        [row] = rows(tmp_path, "SELECT version, messages_version FROM chats")
        assert tuple(row) == (1, 4)


async def test_f50_a_tombstone_outlives_every_device_that_was_away_for_long(serve: Serve) -> None:
    """F50: 89 days later the chat is still `deleted`, and so it is after the tombstone has gone: its key's mark says it."""
    async with serve(drafts=AT_ONCE) as server:
        clock = Clock(server)
        async with devices(server, 1) as (one,):
            await begin(one, "c1", doc("x"))
            await one.ask("chat_delete", {"chatId": "c1"})
        named = [{"id": "c1", "version": 1, "titleVersion": 0, "messagesVersion": 0}]
        for days in (89, 10):
            await clock.travel(days * DAY)
            async with Device(server.url) as one:
                frames = await one.sync(chats=named)
                assert [gone["id"] for gone in frames[-1]["deleted"]] == [one.full("c1")]
                again = {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0}
                assert (await one.ask("draft_update", again))["payload"]["reason"] == "chat_deleted"


async def test_s48_a_fourth_chat_evicts_the_least_recently_used_one_only(serve: Serve) -> None:
    """S48: by use, which a sync, a page of chats and an event are not."""
    async with serve(drafts=AT_ONCE, chats={"active": 3}) as server, devices(server, 2) as (one, two):
        for chat in ("a", "b", "c"):
            await say(one, chat, "m1", doc(chat))
            await settled(server)
        await one.ask("set_active_chat", {"chatId": "a"})
        await two.sync()
        await record(two, "b")
        await say(one, "d", "m1", doc("d"))
        await settled(server)
        await until(lambda: _gone(server, one.full("b")))
        assert {chat for chat in "abcd" if await cached(server, one.full(chat)) is not None} == {"a", "c", "d"}
        page = await one.ask("messages_request", {"chatId": "b", "limit": 5})  # from the store, and used again
        assert [m["content"] for m in page["payload"]["messages"]] == [doc("b")]
        assert {chat for chat in "abcd" if await cached(server, one.full(chat)) is not None} == {"a", "b", "d"}


async def _gone(server: Server, chat: str) -> bool:
    return await cached(server, chat) is None


async def test_s48_what_is_nowhere_else_is_never_evicted(serve: Serve) -> None:
    """S48: draft-only chats, dirty drafts and titles, messages that wait for the store or are parked."""
    async with serve(persistence=STORE, drafts=NEVER, chats={"active": 1}) as server, devices(server, 1) as (one,):
        store = store_of(server)
        store.trouble = lambda hook, chat, message: Unstorable("never") if chat == "parked" else None
        await begin(one, "draft-only", doc("d"))
        for chat in ("dirty-draft", "dirty-title"):
            await say(one, chat, "m1", doc("m"))
            await one.event("message_update", of_chat(one.full(chat)))  # else the row takes along what is edited now
        await one.ask("draft_update", {"chatId": "dirty-draft", "content": doc("d"), "basedOnVersion": 0})
        await one.ask("title_update", {"chatId": "dirty-title", "title": "t", "basedOnVersion": 0})
        await say(one, "parked", "m1", doc("m"))
        await one.event("message_update", lambda event: event["status"] == "error")
        for number in range(6):
            await say(one, f"clean{number}", "m1", doc("m"))
        await one.event("message_update", lambda event: event["chatId"] == one.full("clean5"))
        await until(lambda: _gone(server, one.full("clean4")))
        kept = ("draft-only", "dirty-draft", "dirty-title", "parked", "clean5")
        assert [await cached(server, one.full(chat)) is not None for chat in kept] == [True] * 5
        assert [await cached(server, one.full(f"clean{number}")) for number in range(5)] == [None] * 5


async def test_s14_outcomes_are_remembered_for_a_day(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Semantics §1: 24 h; after that the same operation is judged by its base, and changes nothing either."""
    async with serve(drafts=AT_ONCE) as server, devices(server, 1) as (one,):
        clock = Clock(server)
        await say(one, "c1", "m1", doc("m"))
        edit = {"chatId": "c1", "content": doc("x"), "basedOnVersion": 0}
        await one.ask("draft_update", edit, "operation-of-x")
        await one.ask("draft_update", {"chatId": "c1", "content": doc("y"), "basedOnVersion": 1})
        await settled(server)
        await clock.travel(DAY - 60)
        assert (await one.ask("draft_update", edit, "operation-of-x"))["payload"]["version"] == 1
        await clock.travel(120)
        late = await one.ask("draft_update", edit, "operation-of-x")
        assert (late["type"], late["payload"]["content"]) == ("draft_conflict", doc("y"))


@pytest.mark.caches("memory")
async def test_t29_a_damaged_entry_of_the_cache_is_replaced_by_the_stores(serve: Serve) -> None:
    """T29: every byte of draft, title and message flipped in turn: the person gets the store's text, never a wrong one."""
    async with (
        serve(drafts=AT_ONCE, limits={"frames_per_second": 5000, "burst": 5000}) as server,
        devices(server, 1) as (one,),
    ):
        await say(one, "c1", "m1", doc("message"))
        await one.ask("draft_update", {"chatId": "c1", "content": doc("draft"), "basedOnVersion": 0})
        await one.ask("title_update", {"chatId": "c1", "title": "title", "basedOnVersion": 0})
        await settled(server)
        state = cast("MemoryChats", server.context.parts.cache.chats)._state

        async def seen() -> tuple[object, ...]:
            [chat] = chats_of(await one.sync(lastOpenChatId="c1")).values()
            [message] = chat["messages"]
            return chat["draft"], chat["title"], message["content"], chat["undecryptable"]

        truth = await seen()
        assert truth == (doc("draft"), "title", doc("message"), [])
        await one.ask("messages_request", {"chatId": "c1", "limit": 5})
        whole = await cached(server, one.full("c1"))
        assert whole is not None
        [message] = whole.messages
        assert whole.draft is not None
        assert whole.title is not None

        def flipped(sealed: bytes, place: int) -> bytes:
            return sealed[:place] + bytes([sealed[place] ^ 0x40]) + sealed[place + 1 :]

        tried = 0
        for place in range(max(map(len, (whole.draft, whole.title, message.content)))):
            changes: dict[str, object] = {}
            for name, sealed in (("draft", whole.draft), ("title", whole.title)):
                if place < len(sealed):
                    changes[name] = flipped(sealed, place)
            if place < len(message.content):
                damaged = message.model_copy(update={"content": flipped(message.content, place)})
                changes["messages"] = (damaged,)
            state.put(state.persons[whole.user], whole.having(**changes), state.now())
            assert await seen() == truth, place
            assert await cached(server, whole.id) is None  # what was damaged is not kept
            tried += len(changes)
        assert tried > 200
        # Where the store has nothing newer the damage is named, and nothing is put in its place.
        await one.ask("draft_update", {"chatId": "c1", "content": doc("unsaved"), "basedOnVersion": 1})
        with store_away(server):
            await one.ask("draft_update", {"chatId": "c1", "content": doc("unsaved 2"), "basedOnVersion": 2})
            dirty = await cached(server, whole.id)
            assert dirty is not None
            assert dirty.draft is not None
            state.put(state.persons[whole.user], dirty.having(draft=flipped(dirty.draft, 40)), state.now())
            chat = await record(one, "c1")
            assert (chat["draft"], chat["undecryptable"], chat["version"]) == (None, ["draft"], 3)
