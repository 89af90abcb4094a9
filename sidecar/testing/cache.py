"""The contract of the slot `cache`: a cache plugin is done when it passes.

    class TestMine(CacheContract):
        @pytest_asyncio.fixture
        async def cache(self) -> AsyncIterator[Cache]: ...
        async def travel(self, seconds: float) -> None: ...
        async def break_backend(self) -> None: ...

Every test gets a cache of its own, with nothing in it and one shard of the outbox (`outbox:0` for the persons of the tests).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from sidecar.changes import (
    PutDraft,
)
from sidecar.errors import Unavailable
from sidecar.slots.cache import Cache
from sidecar.testing.cache_changes import ChangesContract
from sidecar.testing.cache_keeping import KeepingContract
from sidecar.testing.cache_outbox import OutboxContract
from sidecar.testing.cache_writer import Writer, sealed, worker


class CacheContract(ChangesContract, KeepingContract, OutboxContract):
    """Subclass it, give it the fixture `cache`, and override what your backend can do (`CacheBackend`)."""

    async def test_unavailable(self, cache: Cache) -> None:
        """Without its backend every method says `Unavailable`, and nothing else."""
        if not self.can_break:
            pytest.skip("this backend cannot be broken")
        alice = Writer(cache)
        await alice.draft("a")
        record = await alice.here()
        shard = await worker(cache)
        token = await cache.chats.prepare(alice.user, [record.id])
        await self.break_backend()
        chats, outbox, leases = cache.chats, cache.outbox, cache.leases
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: chats.commit(alice.change(PutDraft(sealed("b"), 1))),
            lambda: chats.read(alice.user, [record.id]),
            lambda: chats.prepare(alice.user, [record.id]),
            lambda: chats.fill(alice.user, [record], token),
            lambda: chats.drop(alice.user, [record.id]),
            lambda: chats.events(alice.user, None, 1),
            lambda: outbox.join(["persistence"]),
            lambda: outbox.pending(shard, "persistence", 1),
            lambda: outbox.settle(shard, "persistence", [], [], []),
            lambda: outbox.parked("persistence"),
            outbox.hurry,
            outbox.positions,
            lambda: outbox.forget("persistence"),
            lambda: leases.take("caps", "one", 1),
            lambda: leases.leave(shard),
            lambda: leases.held("caps"),
        ]
        for call in calls:
            with pytest.raises(Unavailable):
                await call()
