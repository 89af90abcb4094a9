"""Answers that are lost, cut short, or an error: whatever Redis says, a change takes place once or not at all, and says which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sidecar.changes import (
    Accepted,
    Change,
    DeleteChat,
    DoomChat,
    MessageStatus,
    PutDraft,
    PutTitle,
    Restore,
    RestoredTitle,
    Stored,
    Unmerged,
)
from sidecar.errors import Unavailable
from sidecar.slots.cache import Cache
from sidecar.testing.cache_writer import Writer, sealed, worker
from tests.faults.cache import cache_at
from tests.services.answer_faults import Then
from tests.services.redis_proxy import RedisProxy
from tests.services.redis_server import RedisServer

SCRIPTS = ("EVALSHA", "EVAL")


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[RedisProxy]:
    async with RedisProxy(redis_server.address) as proxy:
        yield proxy


@pytest.fixture
async def cache(proxy: RedisProxy, tmp_path: Path) -> AsyncIterator[Cache]:
    async with cache_at(proxy.url, tmp_path, timeout=5) as cache:
        yield cache


@pytest.fixture(autouse=True)
def _asks_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what a cache asks every five seconds could meet the fault that is meant for the test's own call."""
    for module in ("redis", "redis_sweep"):
        monkeypatch.setattr(f"plugins.cache.{module}._EVERY_SECONDS", 3600.0)


CHANGES: dict[str, Callable[[Writer], Change]] = {
    "draft": lambda alice: alice.change(PutDraft(sealed("b"), 1)),
    "cleared draft": lambda alice: alice.change(PutDraft(None, 1, has_messages=True)),
    "title": lambda alice: alice.change(PutTitle(sealed("t"), 0)),
    "message": lambda alice: alice.change(alice.message("m2", draft_version=1)),
    "restore": lambda alice: alice.change(Restore(None, RestoredTitle(sealed("t"), 7, "t7"), 3)),
    "doom": lambda alice: alice.change(DoomChat()),
    "status": lambda alice: alice.change(MessageStatus(alice.message("m1").message.id, "delivered"), op=None),
    "stored": lambda alice: alice.change(Stored(1, 0, alice.message("m1").message.id), op=None),
    "deletion": lambda alice: alice.change(DeleteChat(), op=None),
}


@pytest.mark.parametrize("then", [Then.RESET, Then.HANG])
@pytest.mark.parametrize("kind", CHANGES)
async def test_f6_an_answer_that_was_lost_is_told_again(
    kind: str, then: Then, proxy: RedisProxy, redis_server: RedisServer, tmp_path: Path
) -> None:
    """F6, S14: the script ran and its answer was lost; asked again it is the first outcome, and nothing counts twice."""
    async with (
        cache_at(proxy.url, tmp_path, timeout=5 if then is Then.RESET else 1) as cache,
        cache_at(redis_server.url, tmp_path, timeout=5) as beside,
    ):
        alice, bob = Writer(beside), Writer(beside, "bob")
        for each in (alice, bob):
            await each.send("m1")
            await each.draft("a", 0)
        # So that there is a connection, and the server knows the script: what is swallowed ran.
        await _when_back(cache, CHANGES[kind](bob))
        change = CHANGES[kind](alice)
        fault = proxy.swallow(2 if then is Then.RESET else 1, of=SCRIPTS, then=then)
        with pytest.raises(Unavailable):
            # After a reset the lane asks once more by itself, and that answer is lost as well.
            await cache.chats.commit(change)
        await fault.over()
        proxy.clear()
        there = await beside.chats.read(alice.user, [alice.chat()])
        again = await _when_back(cache, change)
        assert isinstance(again, Accepted), again
        assert again.repeat or kind in ("doom", "stored", "status")
        assert await beside.chats.read(alice.user, [alice.chat()]) == there
        if change.operation is not None:
            assert again.cursor is None
        if kind == "draft":
            assert (again.version, again.op) == (2, change.operation)


async def _when_back(cache: Cache, change: Change) -> object:
    """The outcome, once the lane tries again: it leaves a server alone for a moment."""
    for _ in range(200):
        try:
            return await cache.chats.commit(change)
        except Unavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("it does not come back")


async def test_f6_a_reset_in_mid_answer_is_made_good_by_the_lane_itself(
    cache: Cache, proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F6: of a pipeline whose answers break off some were told; the rest is asked for again, and nobody gets another's."""
    monkeypatch.setattr("plugins.cache.redis_calls._MOST", 3)  # changes that share an answer
    writers = [Writer(cache, f"person {number}") for number in range(30)]
    bases = await asyncio.gather(*(each.draft("a") for each in writers))
    for round_ in range(20):
        fault = proxy.truncate(200 + 37 * round_, of=SCRIPTS, skip=round_ % 7)
        outcomes = await asyncio.gather(
            *(
                each.commit(each.change(PutDraft(sealed(f"{round_}"), round_ + 1, base.op)))
                for each, base in zip(writers, bases, strict=True)
            )
        )
        assert fault.happened == 1
        assert all(isinstance(outcome, Accepted) and outcome.version == round_ + 2 for outcome in outcomes), outcomes
        bases = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
    for each in writers:
        assert (await each.here()).draft == b"19"
        assert len((await each.events((await each.head()))).items) == 0


async def test_f6_a_cancelled_call_never_gets_anothers_answer(cache: Cache, proxy: RedisProxy) -> None:
    """T50: calls are cancelled at every moment, under way and waiting; whoever stays gets an answer of their own."""
    writers = [Writer(cache, f"person {number}") for number in range(40)]
    await asyncio.gather(*(each.draft(each.user) for each in writers))
    proxy.slow(0.002, jitter=0.004)
    for round_ in range(25):
        reads = [asyncio.ensure_future(cache.chats.read(each.user, [each.chat()])) for each in writers]
        for turn, read in enumerate(reads):
            if (turn + round_) % 3 == 0:
                read.cancel()
            if turn % 8 == 0:
                await asyncio.sleep(0)
        for each, answer in zip(writers, await asyncio.gather(*reads, return_exceptions=True), strict=True):
            if not isinstance(answer, asyncio.CancelledError):
                assert not isinstance(answer, BaseException), answer
                [chat] = answer.values()
                assert getattr(chat, "draft", None) == each.user.encode()


@pytest.mark.parametrize(
    "error", ["BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY"]
)
async def test_f11_an_error_is_said_in_our_words_and_recovered_from(
    error: str, cache: Cache, proxy: RedisProxy
) -> None:
    """F11, F9: never surfaced raw; the change did not take place, and does when it is sent again."""
    alice = Writer(cache)
    base = await alice.draft("a")
    change = alice.change(PutDraft(sealed("b"), 1, base.op))
    fault = proxy.answer(error, of=SCRIPTS)
    with pytest.raises(Unavailable) as told:
        await cache.chats.commit(change)
    assert fault.happened == 1
    assert error not in str(told.value)
    assert told.value.part == "cache"
    assert told.value.retry_after is not None
    outcome = await _when_back(cache, change)
    assert isinstance(outcome, Accepted)
    assert (outcome.version, outcome.repeat) == (2, False)


async def test_f11_scripts_that_the_server_forgot_are_sent_again(cache: Cache, redis_server: RedisServer) -> None:
    """F11: NOSCRIPT, as after a failover: nobody notices."""
    alice = Writer(cache)
    await alice.draft("a")
    for version in range(1, 5):
        assert await redis_server.cli("SCRIPT", "FLUSH", "SYNC") == "OK"
        assert (await alice.draft("b", version)).version == version + 1
    stats = await redis_server.info("commandstats")
    assert stats["cmdstat_eval"]["calls"] > 0


async def test_f11_an_answer_nobody_knows_is_an_outage_and_not_a_crash(cache: Cache, proxy: RedisProxy) -> None:
    """An error of a server that we have never met is told as an outage, without its text."""
    alice = Writer(cache)
    await alice.draft("a")
    proxy.answer("WHATEVER secret words of a newer server", of=SCRIPTS)
    with pytest.raises(Unavailable) as told:
        await alice.draft("b", 1)
    assert "secret" not in str(told.value)
    assert (await alice.draft("b", 1)).version == 2


async def test_f6_the_outbox_and_leases_survive_lost_answers(cache: Cache, proxy: RedisProxy) -> None:
    """F6: taking a lease, passing entries and parking them can be asked again."""
    await cache.outbox.join(["persistence"])
    alice = Writer(cache)
    for number in range(5):
        await alice.send(f"m{number}")
    shard = await worker(cache)
    fault = proxy.swallow(None, of=SCRIPTS, skip=0)
    with pytest.raises(Unavailable):
        await cache.leases.take("outbox:0", "worker", 3600)
    proxy.clear()
    assert fault.happened >= 1
    await asyncio.sleep(0.2)
    assert await worker(cache) == shard
    entries = await cache.outbox.pending(shard, "persistence", 100)
    proxy.swallow(2, of=SCRIPTS)
    with pytest.raises(Unavailable):
        await cache.outbox.settle(shard, "persistence", [entries[0].id], [], [entries[1].id])
    await asyncio.sleep(0.2)
    await cache.outbox.settle(shard, "persistence", [entries[0].id], [], [entries[1].id])
    assert await cache.outbox.pending(shard, "persistence", 100) == []
    parked = await cache.outbox.parked("persistence")
    assert [entry.id for entry in parked] == [entry.id for entry in entries[1:]]


async def test_f8_one_chat_that_is_gone_is_missing_and_not_deleted(cache: Cache, redis_server: RedisServer) -> None:
    """F8: the fields of one chat are lost; it is unknown, the others are there, and the device brings it back."""
    alice = Writer(cache)
    await alice.draft("a", chat="lost")
    await alice.draft("b", chat="kept")
    [person] = await redis_server.cli("KEYS", "*:person:*")
    gone = [f"{kind}:{alice.chat('lost')}" for kind in "cdtm"]
    assert int(await redis_server.cli("HDEL", person, *gone)) >= 2
    assert await alice.names_here(["lost", "kept"]) == {"kept"}
    conflict = await alice.conflict(PutDraft(sealed("c"), 1), "lost")
    assert conflict.reason == "missing"
    back = await alice.accepted(Restore(None, RestoredTitle(sealed("t"), 4, "t4"), 0), "lost")
    assert back.title_version == 4
    assert isinstance(await cache.chats.commit(alice.change(PutDraft(sealed("n"), 0), "new")), Unmerged)
