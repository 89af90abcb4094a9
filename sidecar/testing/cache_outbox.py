"""The contract of a cache: the outbox and the leases (semantics §5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.changes import (
    Limits,
    MessageStatus,
)
from sidecar.errors import LeaseLost
from sidecar.slots.cache import Cache
from sidecar.testing.cache_backend import CacheBackend
from sidecar.testing.cache_writer import Writer, kinds, settle_all, worker


class OutboxContract(CacheBackend):
    """What waits for the plugins, and who may work on it."""

    async def test_outbox_delivers_when_due(self, cache: Cache) -> None:
        """Drafts and titles are written behind, coalesced; a new plugin starts at the end; each has its own position."""
        cache.chats.limits = Limits(debounce=2, max_debounce=10)
        alice = Writer(cache)
        await alice.send("before anybody listens")
        await cache.outbox.join(["persistence"])
        await cache.outbox.join(["persistence", "late"])
        shard = await worker(cache)
        assert await kinds(cache, shard, "persistence") == []
        await alice.draft("a", 0)
        await alice.title("t")
        assert await kinds(cache, shard, "persistence") == []
        await alice.draft("b", 1)
        await cache.outbox.hurry(alice.user)
        assert await kinds(cache, shard, "persistence") == ["draft", "title"]
        await cache.outbox.hurry()
        assert await kinds(cache, shard, "persistence") == ["draft", "title"]
        await alice.draft("c", 2)
        await cache.outbox.hurry()
        # The first draft entry was handed out and may be on its way with the older text.
        assert await kinds(cache, shard, "persistence") == ["draft", "title", "draft"]
        await settle_all(cache, shard, "persistence")
        position = (await cache.outbox.positions())["persistence"]
        assert (position.pending, position.parked, position.oldest) == (0, 0, None)
        # Nobody has asked on behalf of `late` yet: one entry of each kind says it all.
        assert await kinds(cache, shard, "late") == ["draft", "title"]
        await cache.outbox.forget("late")
        assert set(await cache.outbox.positions()) == {"persistence"}
        if self.can_travel:
            await alice.draft("d", 3)
            await self.travel(1.5)
            await alice.draft("e", 4)
            await self.travel(1.5)
            assert await kinds(cache, shard, "persistence") == []
            await self.travel(1)
            assert await kinds(cache, shard, "persistence") == ["draft"]

    async def test_f51_poison_and_parking(self, cache: Cache) -> None:
        """F51: one bad entry waits for a person and holds up only its chat; replayed it goes first, in order."""
        await cache.outbox.join(["persistence"])
        alice = Writer(cache)
        shard = await worker(cache)
        for number in range(3):
            await alice.send(f"m{number}", "bad")
            await alice.send(f"m{number}", "good")
        entries = await cache.outbox.pending(shard, "persistence", 100)
        assert [entry.id for entry in entries] == sorted(entry.id for entry in entries)
        bad = [entry for entry in entries if entry.chat_id == alice.chat("bad")]
        await cache.outbox.settle(shard, "persistence", [], [bad[0].id], [])
        assert (await cache.outbox.pending(shard, "persistence", 1))[0].tries == 1
        await cache.outbox.settle(shard, "persistence", [], [], [bad[0].id])
        assert {entry.chat_id for entry in await settle_all(cache, shard, "persistence")} == {alice.chat("good")}
        await alice.send("later", "bad")
        await alice.accepted(MessageStatus(alice.message("m0", "bad").message.id, "error"), "bad", None)
        assert await kinds(cache, shard, "persistence") == []
        parked = await cache.outbox.parked("persistence")
        assert [entry.id for entry in parked[:3]] == [entry.id for entry in bad]
        assert len(parked) == 4
        # A later one alone would overtake the earlier ones.
        assert len(await cache.outbox.parked("persistence", replay=[parked[2].id])) == 4
        left = await cache.outbox.parked("persistence", replay=[each.id for each in parked], drop=[parked[0].id])
        assert list(left) == []
        again = await cache.outbox.pending(shard, "persistence", 100)
        assert [(entry.id, entry.tries) for entry in again] == [(entry.id, 0) for entry in parked[1:]]
        await cache.outbox.settle(shard, "persistence", [], [], [again[0].id])
        await alice.delete("bad")
        assert list(await cache.outbox.parked("persistence")) == []
        assert await kinds(cache, shard, "persistence") == ["deleted"]

    async def test_t23_f38_leases_and_fences(self, cache: Cache) -> None:
        """T23, F38: places end by themselves; who lost one can change nothing; a new holder has a higher fence."""
        leases = cache.leases
        one = await leases.take("caps", "one", 30, 2, b"note")
        two = await leases.take("caps", "two", 30, 2)
        assert one is not None
        assert two is not None
        assert await leases.take("caps", "three", 30, 2) is None
        assert await leases.take("caps", "one", 30, 2, b"other") == one
        assert await leases.held("caps") == {"one": b"other", "two": b""}
        await leases.leave(one)
        three = await leases.take("caps", "three", 30, 2)
        assert three is not None
        assert three.fence > two.fence > one.fence
        await leases.leave(replace(two, fence=one.fence))
        assert set(await leases.held("caps")) == {"two", "three"}
        await cache.outbox.join(["persistence"])
        await Writer(cache).send("m1")
        zombie = await worker(cache, "zombie", 10)
        entries = await cache.outbox.pending(zombie, "persistence", 10)
        if self.can_travel:
            await self.travel(11)
            with pytest.raises(LeaseLost):
                await cache.outbox.pending(zombie, "persistence", 10)
            await self.travel(20)
            assert await leases.held("caps") == {}
        else:
            await leases.leave(zombie)
        heir = await worker(cache, "heir")
        assert heir.fence > zombie.fence
        with pytest.raises(LeaseLost):
            await cache.outbox.settle(zombie, "persistence", [entries[0].id], [], [])
        assert [entry.id for entry in await cache.outbox.pending(heir, "persistence", 10)] == [entries[0].id]
