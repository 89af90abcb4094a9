"""F35: kill -9 of a sidecar that shares its cache, at chosen places and by chance: nothing that was accepted is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sidecar.ids import hash_user
from tests.device import Device, doc
from tests.faults.hosts import Hosts, hosts
from tests.faults.people import Watcher, Writer, alive
from tests.integration.workers import supervised, together
from tests.integration.world import AT_ONCE, until
from tests.plugins.kill_points import GOES_ON, WAITS
from tests.process import SidecarProcess

__all__ = ["hosts", "supervised", "together"]


async def stored(hosts: Hosts, writers: Sequence[Writer]) -> None:
    """Each message that was accepted is one row, in the order in which it was accepted, and there is no other."""
    expected = sum(len(writer.accepted) for writer in writers)

    async def all_there() -> bool:
        return bool(hosts.rows("SELECT count(*) FROM messages")[0][0] >= expected)

    await until(all_there, 40)
    found = defaultdict(list)
    for row in hosts.rows("SELECT chat_id, client_message_id, sequence FROM messages ORDER BY chat_id, sequence"):
        found[row["chat_id"]].append((row["client_message_id"], row["sequence"]))
    wanted: dict[str, list[tuple[str, int]]] = {}
    for writer in writers:
        prefix = hash_user(writer.name)[:8]
        for chat, message in writer.accepted:
            row = wanted.setdefault(f"{prefix}_{chat}", [])
            row.append((message, len(row) + 1))
    assert found == wanted


async def told(writers: Sequence[Writer]) -> None:
    """A device that comes anew finds what was accepted, each message once and delivered, and the drafts as they were left."""
    for writer in writers:
        async with Device(writer.urls[0], writer.name) as device:
            chats: dict[str, dict[str, Any]] = {}
            for frame in await device.sync():
                for chat in frame["chats"]:
                    chats.setdefault(chat["id"], {}).update(chat)
            for name in dict.fromkeys(chat for chat, _ in writer.accepted):
                page = await device.ask("messages_request", {"chatId": name, "limit": 200})
                messages = page["payload"]["messages"]
                assert [m["client_message_id"] for m in messages] == [m for chat, m in writer.accepted if chat == name]
                assert {m["status"] for m in messages} == {"delivered"}
                version, text = writer.drafts[name]
                found = chats[device.full(name)]
                assert (found["version"], found["draft"]) == (version, doc(text) if text else None)


KILL_POINTS = """
import plugins.cache.redis, plugins.encryption.local, plugins.persistence.sqlite, plugins.auth.dev
import sidecar.server.restarts, tests.plugins.kill_points as points
sidecar.server.restarts.STEADY_SECONDS = 0
points.install({folder!r})
"""
"""A worker that dies is started again at once, however often it dies, and has little to import."""
MOST_WAITS = {"accepting": 20, "delivering": 6, "settling": 1}
"""Delivering goes on for as long as there are entries, four waits for each."""


@pytest.mark.timeout(300)
async def test_f35_killed_wherever_the_way_of_a_message_waits(hosts: Hosts, tmp_path: Path) -> None:
    """F35: at every await from the frame to the settled row, as it begins and as it goes on; writers come back with the same ids."""
    before = KILL_POINTS.format(folder=str(tmp_path))
    sections = hosts.sections(server={"workers": 3}, drafts=AT_ONCE)
    async with SidecarProcess(tmp_path / "host", before=before, **sections) as process:
        writers = [Writer([process.url], f"w{n}", per_chat=2 + n % 4, drafting=n % 2 == 0, pause=0.1) for n in range(6)]
        async with alive(writers):
            await until(lambda: min(len(writer.accepted) for writer in writers) > 5)
            stages = {"accepting", "delivering", "settling"}
            await until(lambda: {stage for stage, _, _ in _places(tmp_path)} == stages)
            places = _places(tmp_path)
            random.Random(35).shuffle(places)
            missed = [place for place in places if not await _kill(tmp_path, process, place)]
            marks = [len(writer.accepted) for writer in writers]
            await until(lambda: all(len(w.accepted) > mark + 2 for w, mark in zip(writers, marks, strict=True)), 30)
        killed = (tmp_path / "killed").read_text().splitlines()
        assert len(killed) == len(places) - len(missed)
        assert not missed
        assert sum(writer.repeated for writer in writers) > 0, "somebody's answer was lost"
        assert 1006 in {end for writer in writers for end in writer.ends}
        await stored(hosts, writers)
        await told(writers)


async def test_f35_killed_by_chance_again_and_again(hosts: Hosts) -> None:
    """F35: two processes, one or the other killed at any moment, while people write and their second devices look on."""
    chance = random.Random(7)
    async with hosts(2, drafts=AT_ONCE) as both:
        urls = [host.url for host in both]
        writers = [Writer(urls, f"w{number}", per_chat=10, pause=0.1) for number in range(8)]
        watchers = [Watcher(urls, f"w{number}", pause=0.1) for number in range(8)]
        async with alive([*writers, *watchers]):
            for _ in range(6):
                await asyncio.sleep(chance.uniform(0.3, 1.5))
                host = chance.choice(both)
                await host.kill()
                await host.restart()
            marks = [len(writer.accepted) for writer in writers]
            await until(lambda: all(len(w.accepted) > mark + 2 for w, mark in zip(writers, marks, strict=True)), 30)
            for writer in writers:
                writer.over.set()
            await until(lambda: all(writer.finished for writer in writers))
            wanted = {id(writer): _by_chat(writer) for writer in writers}
            await until(lambda: all(_seen(w) == wanted[id(x)] for x, w in zip(writers, watchers, strict=True)), 30)
        assert sum(writer.ends.count(1006) for writer in writers) >= 6
        assert sum(writer.repeated for writer in writers) > 0, "somebody's answer was lost"
        assert sum(len(watcher.heard) for watcher in watchers) > 0
        await stored(hosts, writers)
        await told(writers)
        for host in both:
            host.spotless()


def _by_chat(writer: Writer) -> dict[str, int]:
    found = Counter(f"{hash_user(writer.name)[:8]}_{chat}" for chat, _ in writer.accepted)
    return dict(found)


def _seen(watcher: Watcher) -> dict[str, int]:
    return {chat: len(messages) for chat, messages in watcher.messages.items() if messages}


async def test_f35_another_process_goes_on_with_the_outbox_of_a_killed_one(hosts: Hosts) -> None:
    """F35, semantics §5: within ten seconds all that waits in its shards is delivered by the other."""
    async with hosts(2) as (one, other):
        await until(lambda: hosts.even(one, other), 30)
        people = [Device(other.url, f"p{number}") for number in range(40)]
        for device in people:
            await device.open()
        await one.kill()
        assert (await hosts.shares())[one.pid] > 20, "the dead one has them still"
        killed = time.monotonic()
        for device in people:
            sent = {"tempChatId": "c1", "clientMessageId": "m1", "content": doc("said")}
            assert (await device.ask("message_send", sent))["type"] == "message_accepted"
        assert len(hosts.rows("SELECT 1 FROM messages")) < 40, "some wait for the dead one"
        for device in people:
            assert (await device.event("message_update"))["status"] == "delivered"
        took = time.monotonic() - killed
        assert took < 10
        assert (await hosts.shares())[other.pid] == 64
        for device in people:
            await device.close()
        other.spotless()
        assert len(hosts.rows("SELECT 1 FROM messages")) == 40


def _places(folder: Path) -> list[tuple[str, int, str]]:
    most: dict[str, int] = defaultdict(int)
    for line in (folder / "waits").read_text().splitlines():
        stage, waits = line.split()
        most[stage] = max(most[stage], min(int(waits), MOST_WAITS[stage]))
    return [
        (stage, wait, when)
        for stage, waits in most.items()
        for wait in range(1, waits + 1)
        for when in (WAITS, GOES_ON)
    ]


async def _kill(folder: Path, process: SidecarProcess, place: tuple[str, int, str]) -> bool:
    """Whether a worker died there; two are at work again."""
    plan, new = folder / "kill", folder / "plan"
    new.write_text(" ".join(map(str, place)))
    new.rename(plan)  # whole at once
    try:
        await until(lambda: not plan.exists(), 30)
    except TimeoutError:
        plan.unlink(missing_ok=True)
        return False
    await until(lambda: len(process.workers()) >= 2)
    return True


async def test_f35_t23_who_was_on_a_killed_process_comes_back_though_all_places_are_taken(hosts: Hosts) -> None:
    """F35, T23: the places of its connections end 90 s later; those of a process that is known to be dead count no more."""
    most = 4
    async with hosts(2, limits={"connections_per_user": most}) as (one, other):
        devices = [await Device(one.url).open() for _ in range(most)]
        refused = await Device(other.url).connect()
        assert (await refused.sign_in())["payload"]["code"] == "quota_exceeded"
        assert await refused.closed() == 1013
        await refused.close()
        await one.kill()
        for device in devices:
            assert await device.closed() == 1006
            await device.close()
            device.url = other.url

            async def comes_back(device: Device = device) -> bool:
                await device.connect()
                if (await device.sign_in())["type"] == "ready":
                    return True
                await device.close()
                return False

            await until(comes_back, 20)
        late = await Device(other.url).connect()
        assert (await late.sign_in())["payload"]["code"] == "quota_exceeded", "and no more than that"
        await late.close()
        for device in devices:
            await device.close()
        other.spotless()
