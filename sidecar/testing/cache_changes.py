"""The contract of a cache: what becomes of changes (semantics §1–§4)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from sidecar.changes import (
    Accepted,
    Conflict,
    FillToken,
    Limits,
    OverQuota,
    PutDraft,
    PutTitle,
    Restore,
    RestoredDraft,
    RestoredTitle,
    Reused,
    Unmerged,
)
from sidecar.cursors import BEGINNING_TAG
from sidecar.records import Deleted
from sidecar.slots.cache import Cache
from sidecar.testing.cache_backend import CacheBackend
from sidecar.testing.cache_writer import Writer, kinds, sealed, worker


class ChangesContract(CacheBackend):
    """Each decision of the rule, carried out."""

    async def test_s9_s10_a_chat_begins_once(self, cache: Cache) -> None:
        """S9, S10, F6: a first draft needs proof that the store was asked; sent again it is the same chat at version 1."""
        alice = Writer(cache)
        change = alice.change(PutDraft(sealed("a"), 0))
        assert isinstance(await cache.chats.commit(change), Unmerged)
        assert isinstance(await cache.chats.commit(replace(change, token=FillToken(alice.user, "made up"))), Unmerged)
        first = await alice.commit(change)
        assert isinstance(first, Accepted)
        assert (first.created, first.version, first.op, first.repeat) == (True, 1, change.operation, False)
        for _ in range(3):
            again = await alice.commit(change)
            assert isinstance(again, Accepted)
            assert (again.created, again.version, again.op, again.repeat) == (True, 1, change.operation, True)
            assert again.cursor is None
        events = await alice.events(replace(first.cursor, offset=0, tag=BEGINNING_TAG) if first.cursor else None)
        assert [(item.kind, item.chat_id, item.version) for item in events.items] == [("added", alice.chat(), 1)]
        assert events.head == first.cursor

    async def test_s11_s12_s14_bases(self, cache: Cache) -> None:
        """S11, S12, S14, S17: the current base counts one up; another is a conflict with the winner, and changes nothing."""
        alice = Writer(cache)
        first = await alice.draft("a")
        change = alice.change(PutDraft(sealed("b"), 1, first.op))
        second = await alice.commit(change)
        assert isinstance(second, Accepted)
        assert second.version == 2
        stale = await alice.conflict(PutDraft(sealed("c"), 1, first.op), op="loser")
        assert stale.reason == "stale"
        assert stale.chat == await alice.here()
        assert (await alice.conflict(PutDraft(sealed("c"), 2, "another"))).reason == "stale"
        assert (await alice.conflict(PutDraft(sealed("c"), 3))).reason == "missing"
        assert await alice.commit(change) == replace(second, repeat=True, cursor=None, chat=await alice.here())
        assert (await alice.conflict(PutDraft(sealed("c"), 1, first.op), op="loser")).repeat
        here = await alice.here()
        assert (here.draft, here.version, here.draft_op) == (b"b", 2, second.op)

    async def test_s13_f47_one_of_many_wins(self, cache: Cache) -> None:
        """S13, F47: of 100 updates at once with the same base exactly one wins, and each loser gets it."""
        alice = Writer(cache)
        base = await alice.draft("a")
        texts = [sealed(f"text {number}") for number in range(100)]
        outcomes = await asyncio.gather(*(alice.commit(alice.change(PutDraft(each, 1, base.op))) for each in texts))
        winners = [each for each in outcomes if isinstance(each, Accepted)]
        losers = [each for each in outcomes if isinstance(each, Conflict)]
        here = await alice.here()
        assert [winner.version for winner in winners] == [2]
        assert len(losers) == 99
        assert here.draft == texts[outcomes.index(winners[0])]
        assert all(loser.chat == here for loser in losers)
        items = (await alice.events(base.cursor)).items
        assert [(item.kind, item.version) for item in items] == [("draft", 2)]

    async def test_s16_s18_s25_draft_and_title(self, cache: Cache) -> None:
        """S16, S18, S25: cleared, empty and never written differ; a title minds no draft; a cleared draft keeps counting."""
        alice = Writer(cache)
        await alice.send("m1")
        await alice.draft('{"type":"doc"}', 0)
        await asyncio.gather(alice.title("t"), alice.draft("b", 1))
        cleared = await alice.accepted(PutDraft(None, 2, None, has_messages=True))
        here = await alice.here()
        assert (cleared.version, here.draft, here.draft_state, here.title) == (3, None, "deleted", b"t")
        assert (await alice.conflict(PutDraft(sealed("old"), 2))).reason == "deleted"
        assert (await alice.draft("new", 3)).version == 4

    async def test_s23_s28_s69_s70_messages(self, cache: Cache) -> None:
        """S23, S28, S69, S70: a message consumes the draft it was made from, a newer one stays; sent twice it is one."""
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        shard = await worker(cache)
        await alice.draft("a")
        sent = await alice.send("m1", draft_version=1)
        assert (sent.consumed, sent.version, sent.messages_version) == (True, 2, 1)
        assert (await alice.conflict(PutDraft(sealed("late autosave"), 1))).reason == "consumed"
        await alice.draft("next", 2)
        older = await alice.send("m2", draft_version=2)
        assert (older.consumed, older.version, (await alice.here()).draft) == (False, 3, b"next")
        head = await alice.head()
        twice = await alice.send("m1", draft_version=1)
        assert (twice.repeat, twice.consumed, twice.messages_version) == (True, False, 2)
        assert await alice.head() == head
        assert [message.sequence for message in (await alice.here()).messages] == [1, 2]
        assert [each for each in await kinds(cache, shard, "persistence") if each != "draft"] == [
            "first_message",
            "message",
        ]
        lost = await alice.send("m1", "lost", draft_version=5)
        assert (lost.consumed, lost.version, (await alice.here("lost")).draft) == (True, 6, None)

    async def test_s44_s68_f50_deleted_stays_deleted(self, cache: Cache) -> None:
        """S44, S52, S68, F50: nothing brings a deleted chat back, and only the news of it waits in the outbox."""
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        shard = await worker(cache)
        await alice.send("m1")
        token = await cache.chats.prepare(alice.user, [alice.chat()])
        record = await alice.here()
        deleted = await alice.delete()
        assert deleted.deleted is not None
        assert (await alice.delete()).deleted == deleted.deleted
        restored = Restore(RestoredDraft(sealed("a"), "edited", 7, "x"), None, 1)
        for what in (PutDraft(sealed("a"), 0), PutTitle(sealed("t"), 0), restored, alice.message("m2")):
            conflict = await alice.conflict(what)
            assert (conflict.reason, conflict.chat) == ("chat_deleted", deleted.deleted)
        await cache.chats.fill(alice.user, [record], token)
        assert await cache.chats.read(alice.user, [alice.chat()]) == {alice.chat(): deleted.deleted}
        assert await kinds(cache, shard, "persistence") == ["deleted"]
        token = await cache.chats.prepare(alice.user, [alice.chat("two")])
        gone = Deleted(alice.user, alice.chat("two"), deleted.deleted.at)
        await cache.chats.fill(alice.user, [gone], token)
        assert (await alice.conflict(PutDraft(sealed("a"), 0), "two")).chat == gone

    async def test_s20_s67_f7_restore_after_loss(self, cache: Cache) -> None:
        """S20, S67, F7, F8: an emptied cache says missing and never deleted; what is put back keeps its revision."""
        alice = Writer(cache)
        await alice.draft("a")
        before = await alice.draft("b", 1)
        await cache.chats.drop(alice.user, None)
        assert await cache.chats.read(alice.user, [alice.chat()]) == {}
        assert (await alice.events(before.cursor)).lost == "epoch_changed"
        assert (await alice.conflict(PutDraft(sealed("c"), 2, before.op))).reason == "missing"
        draft = RestoredDraft(sealed("b"), "edited", 2, before.op)
        restored = await alice.accepted(Restore(draft, RestoredTitle(sealed("t"), 4, "t4"), 0))
        assert (restored.version, restored.op, restored.title_version) == (2, before.op, 4)
        assert (await alice.accepted(Restore(draft, None, 0))).version == 2
        other = await alice.conflict(Restore(replace(draft, op="another text"), None, 0))
        assert other.reason == "stale"
        higher = await alice.accepted(Restore(RestoredDraft(sealed("d"), "edited", 3, "d3"), None, 0))
        assert higher.replaced is not None
        assert (higher.replaced.draft, higher.replaced.draft_version) == (b"b", 2)
        assert (await alice.draft("e", 3)).version == 4

    async def test_s71_t2_operations_and_owners(self, cache: Cache) -> None:
        """S71, T2: an operation id is good for one frame; the same ids of another person are somebody else's."""
        alice, bob = Writer(cache), Writer(cache, "bob")
        change = alice.change(PutDraft(sealed("a"), 0), op="shared")
        await alice.commit(change)
        assert isinstance(await alice.commit(replace(change, digest=b"another frame...")), Reused)
        assert (await alice.here()).version == 1
        theirs = await bob.commit(bob.change(PutDraft(sealed("b"), 0), op="shared"))
        assert isinstance(theirs, Accepted)
        assert not theirs.repeat
        assert await cache.chats.read(bob.user, [alice.chat()]) == {}
        foreign = replace(bob.change(PutDraft(sealed("c"), 1)), chat_id=alice.chat())
        assert isinstance(await cache.chats.commit(foreign), Unmerged)
        assert (await alice.here()).draft == b"a"

    async def test_t52_quotas(self, cache: Cache) -> None:
        """T52: over a limit nothing changes, what is there stays usable, and what was freed counts no more."""
        cache.chats.limits = Limits(draft_chats=3, bytes=6000)
        alice = Writer(cache)
        for name in ("one", "two", "three"):
            await alice.draft("a", chat=name)
        refused = await alice.commit(alice.change(PutDraft(sealed("a"), 0), "four"))
        assert refused == OverQuota("draft_chats", 3)
        assert await alice.names_here(["one", "four"]) == {"one"}
        refused = await alice.commit(alice.change(PutDraft(sealed("x" * 6000), 1), "one"))
        assert refused == OverQuota("bytes", 6000)
        assert (await alice.here()).version == 1
        await alice.draft("short", 1)
        await alice.delete("two")
        await alice.draft("a", chat="four")
        await Writer(cache, "bob").draft("a")

    async def test_t52_what_is_over_counts_no_more(self, cache: Cache) -> None:
        """T52: a chat whose life has ended frees its place, whatever change comes by first."""
        if not self.can_travel:
            pytest.skip("this backend's time cannot be moved")
        cache.chats.limits = Limits(draft_chats=2, draft_ttl=10, ttl=10)
        alice = Writer(cache)
        for name in ("one", "two"):
            await alice.draft("a", chat=name)
        await self.travel(15)
        assert (await alice.conflict(PutTitle(sealed("t"), 1), "three")).reason == "missing"
        for name in ("four", "five"):
            await alice.draft("a", chat=name)
        assert await alice.commit(alice.change(PutDraft(sealed("a"), 0), "six")) == OverQuota("draft_chats", 2)
