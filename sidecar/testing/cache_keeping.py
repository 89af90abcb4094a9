"""The contract of a cache: the log, fills, and what is kept for how long (semantics §6, §7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from sidecar.changes import (
    Accepted,
    Conflict,
    Limits,
    NewEpoch,
    Notify,
    PutDraft,
    PutTitle,
    Restore,
    RestoredDraft,
    Unmerged,
)
from sidecar.cursors import BEGINNING_TAG, Cursor
from sidecar.slots.cache import Cache
from sidecar.testing.cache_backend import CacheBackend
from sidecar.testing.cache_writer import Writer, sealed, settle_all, worker


class KeepingContract(CacheBackend):
    """What stays, what goes, and how a reader finds out."""

    async def test_s40_f52_events(self, cache: Cache) -> None:
        """S40, S41, F52: exactly what came after a cursor, in order, or plainly that the log does not cover it."""
        cache.chats.limits = Limits(events_kept=5)
        alice = Writer(cache)
        start = await alice.head()
        assert (start.offset, start.tag) == (0, BEGINNING_TAG)
        cursors = [start]
        for version in range(8):
            cursor = (await alice.draft(f"text {version}", version)).cursor
            assert cursor is not None
            cursors.append(cursor)
        await alice.accepted(Notify("device_added"), op=None)
        events = await alice.events(cursors[5])
        assert [item.version for item in events.items] == [6, 7, 8, 0]
        assert [item.offset for item in events.items] == [6, 7, 8, 9]
        assert (events.items[-1].kind, events.items[-1].ref, events.items[-1].chat_id) == (
            "notice",
            "device_added",
            None,
        )
        assert events.items[0].connection == "tab"
        assert [item.offset for item in (await alice.events(cursors[5], 2)).items] == [6, 7]
        assert (await alice.events(events.head)).items == ()
        assert len((await alice.events(cursors[4])).items) == 5
        assert (await alice.events(cursors[3])).lost == "cursor_expired"
        assert (await alice.events(start)).lost == "cursor_expired"
        older = replace(start, epoch=f"{1:012x}" + "0" * 8)
        assert (await alice.events(older)).lost == "epoch_changed"
        assert await alice.head() == events.head

    async def test_f7_f44_the_cache_went_back(self, cache: Cache) -> None:
        """F7, F10, F44: a cursor that this log cannot have given out begins a new epoch, which sorts after the old one."""
        alice = Writer(cache)
        await alice.draft("a")
        damages: list[Callable[[Cursor], Cursor]] = [
            lambda head: replace(head, offset=head.offset + 1),
            lambda head: replace(head, tag="ffffffff"),
            lambda head: replace(head, epoch=f"{int(head.epoch[:12], 16) + 5000:012x}deadbeef"),
        ]
        for number, bad in enumerate(damages):
            if number:
                await alice.accepted(Notify("device_added"), op=None)
            head = await alice.head()
            events = await alice.events(bad(head))
            assert (events.lost, events.items, events.head.offset) == ("epoch_changed", (), 0)
            assert events.head.epoch[:12] > head.epoch[:12]
            assert (await alice.events(head)).lost == "epoch_changed"
            assert await alice.head() == events.head
        seen = await alice.head()
        assert isinstance(await cache.chats.commit(alice.change(PutDraft(sealed("b"), 1))), Unmerged)
        record = await alice.here()
        token = await cache.chats.prepare(alice.user, [record.id])
        await cache.chats.fill(alice.user, [record.having(epoch=seen.epoch)], token)
        assert (await alice.draft("b", 1)).version == 2
        await alice.accepted(NewEpoch("somebody else's"), op=None)
        assert (await alice.head()).epoch == seen.epoch
        await alice.accepted(NewEpoch(seen.epoch), op=None)
        assert (await alice.head()).epoch > seen.epoch

    async def test_s45_s74_fill(self, cache: Cache) -> None:
        """S45, S74: a fill that began before an accepted change, an eviction or a drop installs nothing old."""
        alice = Writer(cache)
        await alice.clean("one")
        old = await alice.here()
        token = await cache.chats.prepare(alice.user, [old.id])
        await alice.draft("newer", 0)
        await alice.stored()
        await cache.chats.drop(alice.user, [old.id])
        await cache.chats.fill(alice.user, [old], token)
        assert await alice.names_here(["one"]) == set()
        token = await cache.chats.prepare(alice.user, [old.id])
        await cache.chats.fill(alice.user, [old.having(epoch="0" * 20)], token)
        assert await alice.names_here(["one"]) == set()
        bob = Writer(cache, "bob")
        foreign = old.having(epoch=(await bob.head()).epoch)
        await cache.chats.fill(bob.user, [foreign], await cache.chats.prepare(bob.user, [old.id]))
        assert await cache.chats.read(bob.user, [old.id]) == {}
        newer = old.having(version=1, draft_op="n", stored_version=1)
        await cache.chats.fill(alice.user, [newer], token)
        assert await alice.here() == newer
        await cache.chats.fill(alice.user, [old], token)
        assert await alice.here() == newer
        token = await cache.chats.prepare(alice.user, [old.id])
        await alice.title("t")
        await cache.chats.fill(alice.user, [newer.having(version=9, stored_version=9, title_version=9)], token)
        here = await alice.here()
        assert (here.version, here.title_version, here.title) == (1, 1, b"t")

    async def test_s48_least_recently_used(self, cache: Cache) -> None:
        """S48: a fourth chat takes the place of the least recently used one only; what is nowhere else stays."""
        alice = Writer(cache)
        await alice.draft("only here", chat="draft")
        await alice.clean("dirty")
        await alice.draft("not stored", chat="dirty")
        for name in ("one", "two", "three"):
            await alice.clean(name)
        await cache.chats.read(alice.user, [alice.chat("one")], use=True)
        await alice.names_here(["two"])  # a look is no use
        await alice.clean("four")
        names = ["one", "two", "three", "four", "draft", "dirty"]
        assert await alice.names_here(names) == {"one", "three", "four", "draft", "dirty"}
        await cache.outbox.join(["listener"])
        await alice.clean("held")  # its message waits for the listener
        await alice.clean("five")
        await alice.clean("six")
        shard = await worker(cache)
        assert "held" in await alice.names_here(["held"])
        await settle_all(cache, shard, "listener")
        await alice.clean("seven")
        await settle_all(cache, shard, "listener")
        await alice.clean("eight")
        await settle_all(cache, shard, "listener")
        await cache.chats.read(alice.user, [alice.chat("eight")], use=True)
        assert "held" not in await alice.names_here(["held"])

    async def test_s22_f15_lifetimes(self, cache: Cache) -> None:
        """S22, F15: clean and draft-only chats end, a connected owner keeps drafts, a dirty chat never ends."""
        if not self.can_travel:
            pytest.skip("this backend's time cannot be moved")
        cache.chats.limits = Limits(ttl=100, draft_ttl=100)
        alice = Writer(cache)
        await alice.draft("a", chat="draft")
        await alice.clean("clean")
        await alice.send("m1", "dirty")
        await self.travel(60)
        await alice.events()
        await self.travel(60)
        assert await alice.names_here(["draft", "clean", "dirty"]) == {"draft", "dirty"}
        await self.travel(99)
        assert await alice.names_here(["draft"]) == {"draft"}
        await self.travel(86_400)
        assert await alice.names_here(["draft", "clean", "dirty"]) == {"dirty"}
        back = RestoredDraft(sealed("a"), "edited", 1, "first")
        assert (await alice.accepted(Restore(back, None, 0), "draft")).version == 1
        assert (await alice.draft("b", 1, "draft")).version == 2

    async def test_lifetimes_of_outcomes_and_tombstones(self, cache: Cache) -> None:
        """F50: an outcome is remembered for 24 h, a fill token holds for 60 s, a tombstone beats a device away for 89 days."""
        if not self.can_travel:
            pytest.skip("this backend's time cannot be moved")
        alice = Writer(cache)
        await alice.send("m1")
        change = alice.change(PutTitle(sealed("t"), 0))
        await alice.commit(change)
        await self.travel(23 * 3600)
        assert isinstance(again := await alice.commit(change), Accepted)
        assert again.repeat
        await alice.title("newer", 1)
        await self.travel(2 * 3600)
        assert isinstance(await alice.commit(change), Conflict)
        token = await cache.chats.prepare(alice.user, [alice.chat("two")])
        await self.travel(61)
        late = replace(alice.change(PutDraft(sealed("a"), 0), "two"), token=token)
        assert isinstance(await cache.chats.commit(late), Unmerged)
        await alice.delete()
        await self.travel(89 * 86_400)
        assert (await alice.conflict(PutDraft(sealed("a"), 0))).reason == "chat_deleted"

    async def test_s41_f52_a_log_that_ages_goes_on(self, cache: Cache) -> None:
        """S41, F52: entries of more than seven days go one by one, with looks in between; what is left is told, in one epoch."""
        if not self.can_travel:
            pytest.skip("this backend's time cannot be moved")
        alice = Writer(cache)
        cursors = []
        for version in range(4):
            cursor = (await alice.draft(f"text {version}", version)).cursor
            assert cursor is not None
            cursors.append(cursor)
            await self.travel(5)
        await self.travel(7 * 86_400 - 22)
        for gone in range(4):
            # The entry before is too old by now, this one not yet.
            assert (await alice.head()) == cursors[-1]
            events = await alice.events(cursors[gone])
            assert (events.lost, [item.version for item in events.items]) == (None, list(range(gone + 2, 5)))
            if gone > 1:
                assert (await alice.events(cursors[gone - 2])).lost == "cursor_expired"
            await self.travel(5)
        await alice.draft("on", 4)
        assert [item.version for item in (await alice.events(cursors[-1])).items] == [5]
        assert (await alice.events(cursors[0])).lost == "cursor_expired"

    async def test_watch(self, cache: Cache) -> None:
        """Each watcher hears of every person whose log grew."""
        alice, bob = Writer(cache), Writer(cache, "bob")
        await alice.draft("before")
        watchers = [cache.chats.watch(), cache.chats.watch()]
        first = [asyncio.ensure_future(anext(watcher)) for watcher in watchers]
        await asyncio.sleep(0.1)
        await bob.draft("a")
        assert await asyncio.wait_for(asyncio.gather(*first), 5) == [bob.user, bob.user]
        await alice.draft("b", 1)
        while await asyncio.wait_for(anext(watchers[0]), 5) != alice.user:
            pass  # a notice may come twice
