"""The memory cache beyond the contract: what survives, what it costs, what happens when the journal fails."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugins.cache.memory import Memory, steady_clock
from sidecar.changes import Accepted, Conflict, Limits, MessageStatus, Notify, PutDraft, PutTitle, Unmerged
from sidecar.errors import LeaseLost, StartRefused, Unavailable
from sidecar.plugin_entry import Surroundings
from sidecar.records import Deleted
from sidecar.slots.cache import Cache
from sidecar.testing.cache_writer import Writer, kinds, sealed, settle_all, worker


class _Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def _memory(folder: Path, clock: _Clock | None = None, **more: Any) -> Memory:
    return Memory(Memory.Options(), Surroundings(folder, "127.0.0.1"), clock=clock or _Clock(), **more)


@asynccontextmanager
async def _killed(folder: Path, clock: _Clock | None = None) -> AsyncIterator[Memory]:
    """The cache as a new process finds it if the one on this folder is killed now."""
    copy = folder.with_name(f"{folder.name}-after")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    async with _memory(copy, clock) as memory:
        yield memory


def _picture(memory: Memory) -> dict[str, Any]:
    """Everything that must survive."""
    state = memory._state
    persons = {
        user: {
            "chats": {chat_id: slot.chat for chat_id, slot in person.chats.items() if slot.pinned},
            "tombstones": dict(person.tombstones),
            "outcomes": list(person.outcomes.items()),
            "log": (person.log.epoch, person.log.base, person.log.base_tag, person.log.timed()),
            "usage": person.usage,
        }
        for user, person in state.persons.items()
    }
    queues = {
        name: {
            "parked": list(queue.parked),
            "all": sorted(
                [entry for user in queue.everybody() for entry in queue.of_user(user)], key=lambda entry: entry.id
            ),
        }
        for name, queue in state.queues.items()
    }
    return {"persons": persons, "queues": queues}


async def _live(cache: Cache, steps: int, seed: int) -> None:
    """Two persons at random work, with a worker behind them."""
    chance = random.Random(seed)
    await cache.outbox.join(["persistence", "listener"])
    shard = await worker(cache)
    writers = [Writer(cache, "alice"), Writer(cache, "bob")]
    for step in range(steps):
        writer = chance.choice(writers)
        name = f"chat{chance.randrange(6)}-{step // 120}"
        found = (await cache.chats.read(writer.user, [writer.chat(name)])).get(writer.chat(name))
        version, title = (0, 0) if found is None or isinstance(found, Deleted) else (found.version, found.title_version)
        match chance.randrange(12):
            case 0 | 1 | 2:
                base = max(0, version - chance.randrange(2))
                await writer.commit(writer.change(PutDraft(sealed(f"draft {step}" * 20), base), name))
            case 3:
                await writer.commit(writer.change(PutTitle(sealed(f"title {step}"), title), name))
            case 4 | 5:
                await writer.commit(writer.change(writer.message(f"m{step}", name, version or None), name))
            case 6:
                await writer.commit(writer.change(PutDraft(None, version, None, has_messages=True), name))
            case 7 if chance.random() < 0.2:
                await writer.delete(name)
            case 8:
                await cache.outbox.hurry(None)
                entries = await cache.outbox.pending(shard, "persistence", 5)
                ids = [entry.id for entry in entries]
                await cache.outbox.settle(shard, "persistence", ids[:3], ids[3:4], ids[4:5])
            case 9:
                parked = [entry.id for entry in await cache.outbox.parked("persistence")]
                await cache.outbox.parked("persistence", replay=parked[:2], drop=parked[2:3])
            case 10 if found is not None and not isinstance(found, Deleted):
                await writer.stored(name)
            case 11:
                await cache.chats.drop(writer.user, [writer.chat(name)])


@pytest.mark.parametrize("seed", range(6))
async def test_f35_a_killed_process_is_read_back(tmp_path: Path, seed: int) -> None:
    """F35, S29, S30: after any number of changes a new process finds exactly what was answered."""
    folder = tmp_path / "data"
    async with _memory(folder) as memory:
        cache = await memory.provide_cache()
        await _live(cache, 250, seed)
        before = _picture(memory)
        async with _killed(folder) as after:
            assert _picture(after) == before
        await _live(cache, 50, seed + 100)
        before = _picture(memory)
    async with _memory(folder) as again:
        assert _picture(again) == before


async def test_f14_s30_a_commit_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """F14, S30: version, text, log, outcome and outbox entry come back together, wherever the last record is cut."""
    folder = tmp_path / "data"
    async with _memory(folder) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        await alice.draft("a")
        before = _picture(memory)
        path = max((folder / "cache").glob("journal.*"))
        start = path.stat().st_size
        await alice.send("m1", draft_version=1)
        after = _picture(memory)
        assert after != before
        whole = path.read_bytes()
    for cut in [*range(start, len(whole), 7), len(whole) - 1, len(whole)]:
        path = tmp_path / f"cut{cut}" / "cache" / "journal.000001"
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[:cut])
        async with _memory(path.parent.parent) as memory:
            assert _picture(memory) == (after if cut == len(whole) else before)


_WRITE_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from plugins.cache.memory import Memory
from sidecar import Surroundings
from sidecar.testing.cache_writer import Writer

async def main():
    async with Memory(Memory.Options(), Surroundings(Path(sys.argv[1]), "127.0.0.1"), compact_from=200_000) as memory:
        alice = Writer(await memory.provide_cache())
        await alice.send("first", "one")
        version = 0
        while True:
            answer = await alice.draft(f"text {version} " * 50, version, "one")
            version = answer.version
            print(version, answer.op, flush=True)
            if version % 50 == 0:
                memory._compaction.look()
                await asyncio.sleep(0)

asyncio.run(main())
"""


def test_f35_f43_kill_9_while_committing(tmp_path: Path) -> None:
    """F35, F43: every commit that was answered before a real kill -9 is there, compactions in between included."""
    for turn in range(2):
        folder = tmp_path / str(turn)
        command = [sys.executable, "-c", _WRITE_UNTIL_KILLED, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(1500 + turn * 37)]
            process.send_signal(signal.SIGKILL)
            seen += process.stdout.readlines()
        answered = [line.split() for line in seen if line.endswith("\n")]
        version, op = int(answered[-1][0]), answered[-1][1]

        async def check(folder: Path = folder, version: int = version, op: str = op) -> None:
            async with Memory(Memory.Options(), Surroundings(folder, "127.0.0.1")) as memory:
                alice = Writer(await memory.provide_cache())
                here = await alice.here("one")
                assert here.version in (version, version + 1)  # one more may be written and not answered
                assert here.draft == f"text {here.version - 1} ".encode() * 50
                again = await alice.commit(alice.change(PutDraft(here.draft, here.version - 1), "one", here.draft_op))
                assert isinstance(again, Accepted)
                assert (again.repeat, again.version) == (True, here.version)
                if here.version == version:
                    assert here.draft_op == op

        asyncio.run(check())


async def test_f35_killed_within_a_compaction(tmp_path: Path) -> None:
    """F35: killed after any step of a compaction, with commits of everybody in between, nothing is lost."""
    folder = tmp_path / "data"
    async with _memory(folder) as memory:
        cache = await memory.provide_cache()
        await _live(cache, 150, 1)
        writers = [Writer(cache, name) for name in ("alice", "bob", "carol", "dave")]
        for writer in writers[2:]:
            await writer.draft("before")
        compaction = memory._compaction
        assert compaction is not None
        turn = 0
        for _ in compaction._steps():
            for writer in writers:
                await writer.draft(f"text {turn}", turn, "during")
                await writer.send(f"m{turn}", "during")
            turn += 1
            assert len(list((folder / "cache").glob("journal.*"))) == 2
            async with _killed(folder) as after:
                assert _picture(after) == _picture(memory)
        assert turn == 4
        compaction._journal.complete()
        await writers[0].draft("after")
        assert [path.name for path in (folder / "cache").glob("journal.*")] == ["journal.000002"]
        async with _killed(folder) as after:
            assert _picture(after) == _picture(memory)


async def test_compaction_beside_the_service(tmp_path: Path) -> None:
    """A journal that has grown is written anew while it is used, and the older file goes."""
    folder = tmp_path / "data"
    async with _memory(folder, compact_from=1) as memory:
        alice = Writer(await memory.provide_cache())
        for version in range(50):
            await alice.draft(f"text {version}" * 100, version)
        compaction = memory._compaction
        journal = memory._state.journal
        assert compaction is not None
        assert journal is not None
        size = journal.size
        compaction.look()
        await _until_compacted(memory, folder)
        assert journal.size < size / 2
        async with _killed(folder) as after:
            assert _picture(after) == _picture(memory)


async def _until_compacted(memory: Memory, folder: Path) -> None:
    assert memory._compaction is not None
    assert memory._compaction._task is not None
    await memory._compaction._task
    assert len(list((folder / "cache").glob("journal.*"))) == 1


async def test_a_clean_chat_is_told_whole_after_a_compaction(tmp_path: Path) -> None:
    """The new file has nothing of it: a difference alone would be lost."""
    folder = tmp_path / "data"
    async with _memory(folder, compact_from=1) as memory:
        alice = Writer(await memory.provide_cache())
        await alice.clean("one")
        compaction = memory._compaction
        assert compaction is not None
        compaction.look()
        await _until_compacted(memory, folder)
        message = (await alice.here("one")).messages[0]
        await alice.accepted(MessageStatus(message.id, "error"), "one", None)
        async with _killed(folder) as after:
            assert _picture(after) == _picture(memory)
            assert (await Writer(await after.provide_cache()).here("one")).undelivered == 1


async def test_a_compaction_without_room_keeps_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F42: the service goes on in the files that are there, and it is tried again later."""
    folder, clock = tmp_path / "data", _Clock()
    async with _memory(folder, clock, compact_from=1) as memory:
        alice = Writer(await memory.provide_cache())
        await alice.draft("a")
        compaction = memory._compaction
        assert compaction is not None

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            compaction.look()
            assert compaction._task is not None
            await compaction._task
        await alice.draft("b", 1)
        async with _killed(folder) as after:
            assert _picture(after) == _picture(memory)
        compaction.look()
        await asyncio.sleep(0)
        assert compaction._task is None  # not again at once
        clock.now += 61
        compaction.look()
        await _until_compacted(memory, folder)
        async with _killed(folder) as after:
            assert _picture(after) == _picture(memory)


async def test_f12_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F9, F12: what cannot be written down is `Unavailable` and leaves no trace; reads go on; afterwards so do writes."""
    async with _memory(tmp_path) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        shard = await worker(cache)
        await alice.send("m1")
        first = await alice.draft("a")
        entries = await cache.outbox.pending(shard, "persistence", 10)
        before = _picture(memory)

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            await cache.outbox.hurry()
            for what in (
                PutDraft(sealed("b"), 1),
                PutTitle(sealed("t"), 0),
                alice.message("m2"),
                PutDraft(sealed("c"), 0),
            ):
                with pytest.raises(Unavailable):
                    await alice.commit(alice.change(what))
            with pytest.raises(Unavailable):
                await alice.delete()
            with pytest.raises(Unavailable):
                await cache.outbox.pending(shard, "persistence", 10)
            with pytest.raises(Unavailable):
                await cache.outbox.settle(shard, "persistence", [entries[0].id], [], [])
            with pytest.raises(Unavailable):
                await cache.outbox.join(["another"])
            with pytest.raises(Unavailable):
                await cache.chats.drop(alice.user, None)
            with pytest.raises(Unavailable):
                await Writer(cache, "bob").events()
            assert _picture(memory) == before
            assert (await alice.here()).draft == b"a"
            assert (await alice.events(first.cursor)).lost is None
            assert memory.state()["state"] == "unavailable"
        assert (await alice.draft("b", 1)).version == 2
        assert await kinds(cache, shard, "persistence") == ["first_message", "draft"]
        assert memory.state()["state"] == "ok"


async def test_a_start_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _memory(tmp_path) as memory:
        await Writer(await memory.provide_cache()).draft("a")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StartRefused, match="make room"):
            async with _memory(tmp_path):
                pass
    async with _memory(tmp_path) as memory:
        assert (await Writer(await memory.provide_cache()).here()).draft == b"a"


async def test_a_second_sidecar_is_refused(tmp_path: Path) -> None:
    async with _memory(tmp_path):
        with pytest.raises(StartRefused, match="another sidecar"):
            async with _memory(tmp_path):
                pass


async def test_clean_chats_are_not_read_back(tmp_path: Path) -> None:
    """S47: the store may have moved on; a dirty chat comes back with what the store has not got and asks for the rest."""
    folder = tmp_path / "data"
    async with _memory(folder) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await alice.clean("clean")
        await alice.clean("dirty")
        record = await alice.here("dirty")
        await cache.chats.drop(alice.user, [record.id])
        token = await cache.chats.prepare(alice.user, [record.id])
        await cache.chats.fill(alice.user, [record], token)
        await alice.send("m2", "dirty")
        async with _killed(folder) as after:
            alice = Writer(await after.provide_cache())
            assert await alice.names_here(["clean", "dirty"]) == {"dirty"}
            here = await alice.here("dirty")
            assert [message.client_message_id for message in here.messages] == ["m2"]
            assert (here.older, here.undelivered, here.messages_version, here.last_sequence) == (True, 1, 3, 2)


async def test_the_outbox_survives(tmp_path: Path) -> None:
    """Positions, tries and parked entries are as they were; drafts that were not appended yet are due."""
    folder = tmp_path / "data"
    async with _memory(folder) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await cache.outbox.join(["persistence", "gone"])
        await cache.outbox.forget("gone")
        shard = await worker(cache)
        await alice.send("m1", "parked")
        await alice.send("m1", "tried")
        entries = await cache.outbox.pending(shard, "persistence", 10)
        await cache.outbox.settle(shard, "persistence", [], [entries[1].id], [entries[0].id])
        await alice.send("m2", "parked")
        await alice.draft("not due yet", 0, "tried")
        async with _killed(folder) as after:
            cache = await after.provide_cache()
            assert set(await cache.outbox.positions()) == {"persistence"}
            heir = await worker(cache)
            assert heir.fence > shard.fence
            waiting = await cache.outbox.pending(heir, "persistence", 10)
            assert [(entry.kind, entry.tries) for entry in waiting] == [("first_message", 1), ("draft", 0)]
            assert [entry.kind for entry in await cache.outbox.parked("persistence")] == ["first_message", "message"]
            await Writer(cache).send("m3", "new")
            last = (await cache.outbox.pending(heir, "persistence", 10))[-1]
            assert last.id > waiting[-1].id
            with pytest.raises(LeaseLost):
                await cache.outbox.settle(shard, "persistence", [last.id], [], [])


async def test_f44_a_clock_that_jumps(tmp_path: Path) -> None:
    """F44: an hour back or forth, at run time or between two runs: versions, cursors, epochs, ids and fences keep rising."""
    folder, clock = tmp_path / "data", _Clock()
    async with _memory(folder, clock) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        await alice.send("m0")
        cursors = [(await alice.draft("a")).cursor]
        entry_ids, fences = [], []
        for number, jump in enumerate((3600, -3600, -3600, 7200), 1):
            clock.now += jump
            sent = await alice.send(f"m{number}", f"chat{number}")
            cursors.append((await alice.draft(f"text {number}", number)).cursor)
            lease = await cache.leases.take("outbox:0", f"worker{number}", 1)
            assert lease is not None
            entry_ids += [entry.id for entry in await settle_all(cache, lease, "persistence") if sent.chat]
            fences.append(lease.fence)
            await cache.leases.leave(lease)
        assert entry_ids == sorted(entry_ids)
        assert fences == sorted(set(fences))
        assert cursors[0] is not None
        assert len((await alice.events(cursors[0])).items) == 12
        epoch = (await alice.head()).epoch
        clock.now -= 7200
        await cache.chats.drop(alice.user, None)
        assert (await alice.head()).epoch[:12] >= epoch[:12]
        bad = replace(await alice.head(), tag="ffffffff", offset=99)
        assert (await alice.events(bad)).head.epoch > epoch
    clock.now -= 7200
    async with _memory(folder, clock) as memory:
        cache = await memory.provide_cache()
        lease = await worker(cache)
        assert lease.fence > fences[-1]
        await Writer(cache).send("later", "later")
        assert (await cache.outbox.pending(lease, "persistence", 9))[-1].id > entry_ids[-1]


def test_f44_the_own_clock_is_even(monkeypatch: pytest.MonkeyPatch) -> None:
    """F44: setting the system's clock moves nothing in a running cache."""
    clock = steady_clock()
    before = clock()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert 0 <= clock() - before < 60


async def test_usage_is_never_counted_anew_and_right(tmp_path: Path) -> None:
    """T52: what is kept at each change is what counting would give, whatever happened."""
    async with _memory(tmp_path) as memory:
        for seed in range(4):
            await _live(await memory.provide_cache(), 150, seed)
            for person in memory._state.persons.values():
                slots = list(person.chats.values())
                assert person.draft_chats == sum(slot.chat.messages_version == 0 for slot in slots)
                assert person.bytes == sum(slot.chat.weight for slot in slots if slot.chat.pinned)
                held = {slot.chat.id for slot in slots if memory._state.holds(person.user, slot.chat.id)}
                assert set(person.evictable) == {
                    slot.chat.id for slot in slots if not slot.chat.pinned and slot.chat.id not in held
                }


async def test_s74_eviction_spoils_a_fill(tmp_path: Path) -> None:
    """S74: edited, stored and evicted while the fill was under way: the fill brings nothing old back."""
    async with _memory(tmp_path) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await alice.clean("slow")
        old = await alice.here("slow")
        token = await cache.chats.prepare(alice.user, [old.id])
        for name in ("one", "two", "three"):
            await alice.clean(name)
        assert await alice.names_here(["slow"]) == set()
        await cache.chats.fill(alice.user, [old], token)
        assert await alice.names_here(["slow"]) == set()


async def test_a_fill_never_lowers_or_loses(tmp_path: Path) -> None:
    """S45, L4: under a valid token too, a number does not fall and an unstored text or message does not go."""
    async with _memory(tmp_path) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await alice.send("m1")
        await alice.draft("mine", 0)
        here = await alice.here()
        for other in (
            here.having(version=0),
            here.having(messages_version=0),
            here.having(draft=sealed("theirs"), draft_op="theirs"),
            here.with_messages([], 0),
        ):
            token = await cache.chats.prepare(alice.user, [here.id])
            await cache.chats.fill(alice.user, [other], token)
            assert await alice.here() == here


async def test_sweeping_lets_go_of_what_is_over(tmp_path: Path) -> None:
    """F15: a touch costs nothing, an end is kept, and a person of whom nothing is left is gone, on the disk too."""
    folder, clock = tmp_path / "data", _Clock()
    async with _memory(folder, clock) as memory:
        cache = await memory.provide_cache()
        state = memory._state
        cache.chats.limits = Limits(ttl=100, draft_ttl=100)
        alice = Writer(cache)
        for number in range(50):
            await alice.draft("a", chat=f"chat{number}")
        clock.now += 60
        await alice.draft("b", 1, "chat7")
        clock.now += 60
        state.sweep(clock.now, 1000)
        assert list(state.persons[alice.user].chats) == [alice.chat("chat7")]
        assert state.persons[alice.user].usage.draft_chats == 1
        async with _killed(folder, clock) as after:
            assert list(after._state.persons[alice.user].chats) == [alice.chat("chat7")]
        for _ in range(8 * 24 + 2):
            clock.now += 3601
            state.sweep(clock.now, 1000)
        assert state.persons == {}


async def test_epochs_end_after_a_week(tmp_path: Path) -> None:
    """Log and epoch live 7 days; what is dirty stays and is merged before it is used."""
    clock = _Clock()
    async with _memory(tmp_path, clock) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        sent = await alice.send("m1")
        clock.now += 8 * 86_400
        assert (await alice.events(sent.cursor)).lost == "epoch_changed"
        assert (await alice.here()).epoch != (await alice.head()).epoch
        assert isinstance(await cache.chats.commit(alice.change(PutTitle(sealed("t"), 0))), Unmerged)


async def test_watchers_hear_once_and_leave(tmp_path: Path) -> None:
    """Any number of changes before a watcher looks is one notice; a watcher that is gone costs nothing."""
    async with _memory(tmp_path) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        heard: list[str] = []

        async def listen() -> None:
            async for user in cache.chats.watch():
                heard.append(user)  # noqa: PERF401 a notice is a step of its own

        task = asyncio.create_task(listen())
        await asyncio.sleep(0)
        for version in range(20):
            await alice.draft(f"text {version}", version)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert heard == [alice.user]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
        assert memory._state.watchers._watchers == []


async def test_an_entry_under_way_is_not_the_last_word(tmp_path: Path) -> None:
    """An edit after a draft was handed out is appended anew; after a failed try it is not needed."""
    async with _memory(tmp_path) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        shard = await worker(cache)
        await alice.send("m1")
        await settle_all(cache, shard, "persistence")
        await alice.draft("a")
        await cache.outbox.hurry()
        (entry,) = await cache.outbox.pending(shard, "persistence", 9)
        await cache.outbox.settle(shard, "persistence", [], [entry.id], [])
        await alice.draft("b", 1)
        await cache.outbox.hurry()
        assert [each.id for each in await cache.outbox.pending(shard, "persistence", 9)] == [entry.id]
        await alice.draft("c", 2)
        await cache.outbox.hurry()
        await cache.outbox.settle(shard, "persistence", [entry.id], [], [])
        assert await kinds(cache, shard, "persistence") == ["draft"]


async def test_erasing_a_person_leaves_the_news_of_it(tmp_path: Path) -> None:
    """Everything goes, dirty and parked too, but for the entries that tell plugins of the end."""
    folder = tmp_path / "data"
    async with _memory(folder) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        await alice.send("m1", "one")
        await alice.send("m1", "two")
        await alice.delete("two")
        await alice.accepted(Notify("erased"), op=None)
        await cache.chats.drop(alice.user, None)
        shard = await worker(cache)
        entries = await cache.outbox.pending(shard, "persistence", 9)
        assert [(entry.kind, entry.chat_id) for entry in entries] == [("deleted", alice.chat("two")), ("erased", None)]
        assert memory._state.persons == {}
        async with _killed(folder) as after:
            assert _picture(after) == _picture(memory)
        async with _memory(folder.with_name("data-after")) as again:  # from what the start before it compacted
            assert _picture(again) == _picture(memory)


async def test_a_chat_that_ended_and_began_again_is_delivered(tmp_path: Path) -> None:
    """F15: nothing is left of the first life, even if nobody has taken it away yet."""
    clock = _Clock()
    async with _memory(tmp_path, clock) as memory:
        cache = await memory.provide_cache()
        alice = Writer(cache)
        await cache.outbox.join(["persistence"])
        for number in range(100):
            await alice.draft("a", chat=f"chat{number}")
        await alice.draft("a", chat="last")
        await alice.draft("b", 1, "last")
        await cache.outbox.hurry()
        await settle_all(cache, await worker(cache), "persistence")
        clock.now += 1795
        token = await cache.chats.prepare(alice.user, [alice.chat("last")])
        clock.now += 10
        again = await cache.chats.commit(alice.change(PutDraft(sealed("again"), 0), "last", token=token))
        assert isinstance(again, Accepted)
        assert (again.version, again.created) == (1, True)
        await cache.outbox.hurry()
        (entry,) = await settle_all(cache, await worker(cache), "persistence")
        assert (entry.kind, entry.chat_id) == ("draft", alice.chat("last"))


async def test_a_token_is_proof_for_a_chat_that_ended_before(tmp_path: Path) -> None:
    """S74: a life that was over when the store was asked spoils no token when it is taken away later."""
    clock = _Clock()
    async with _memory(tmp_path, clock) as memory:
        alice = Writer(await memory.provide_cache())
        for number in range(300):
            await alice.draft("a", chat=f"chat{number % 150}", base=number // 150)
        clock.now += 3601
        assert (await alice.draft("again", chat="chat149")).version == 1


async def test_messages_are_journalled_once(tmp_path: Path) -> None:
    """An edit of a chat with long messages writes the draft and not the messages."""
    async with _memory(tmp_path) as memory:
        alice = Writer(await memory.provide_cache())
        for number in range(5):
            what = alice.message(f"m{number}")
            content = sealed(f"{number}" * 50_000)
            await alice.accepted(replace(what, message=what.message.model_copy(update={"content": content})))
        journal = memory._state.journal
        assert journal is not None
        size = journal.size
        await alice.draft("short")
        await alice.accepted(MessageStatus(alice.message("m0").message.id, "error"), op=None)
        assert journal.size - size < 5000


async def test_hook_on_sync_lists_what_is_here(tmp_path: Path) -> None:
    """Newest first by change and id, from a key on; `total` counts drafts that only the cache knows."""
    async with _memory(tmp_path) as memory:
        alice = Writer(await memory.provide_cache())
        for name in ("a", "b", "c", "d"):
            await alice.draft("text", chat=name)
        await alice.send("m1", "a")
        doomed = await alice.accepted(PutDraft(None, 1), "b")
        assert doomed.doomed
        page = await memory.on_sync(alice.user, None, 2)
        assert [chat.id for chat in page.items] == [alice.chat("a"), alice.chat("d")]
        assert (page.more, page.total) == (True, 2)
        last = page.items[-1]
        page = await memory.on_sync(alice.user, (last.updated_at, last.id), 2)
        assert [chat.id for chat in page.items] == [alice.chat("c")]
        assert (page.more, page.total) == (False, 2)
        assert (await memory.on_sync(Writer(await memory.provide_cache(), "bob").user, None, 9)).items == []


async def test_t38_no_text_in_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """T38: neither a failing journal nor a torn one repeats what was written."""
    canary = "canary-4711"
    async with _memory(tmp_path) as memory:
        alice = Writer(await memory.provide_cache())
        await alice.draft(canary)

        def fail(*_: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            with pytest.raises(Unavailable) as error:
                await alice.draft(canary, 1)
        assert canary not in str(error.value) + repr(error.value)
        assert isinstance(await alice.conflict(PutDraft(sealed(canary), 0)), Conflict)
    path = max((tmp_path / "cache").glob("journal.*"))
    path.write_bytes(path.read_bytes()[:-1])
    async with _memory(tmp_path):
        pass
    assert caplog.records
    assert canary not in caplog.text
