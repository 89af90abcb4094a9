"""Two processes that are not alike: one out of file descriptors (F41), one with another time (F44), one cut off from Redis (F46)."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter

import pytest

from tests.device import Device, doc
from tests.faults.hosts import Host, Hosts, hosts
from tests.faults.people import Person, Watcher, Writer, alive
from tests.faults.test_killed import stored, told
from tests.integration.world import AT_ONCE, begin, edit_by_turns, say, until
from tests.memory import descriptors
from tests.raw_socket import RawSocket
from tests.services.programs import Missing, find_faketime
from tests.services.redis_proxy import RedisProxy

__all__ = ["hosts"]

# -- F41: out of file descriptors --------------------------------------------------------------------------------------


async def test_f41_a_process_without_file_descriptors_serves_whom_it_has_and_recovers(hosts: Hosts) -> None:
    """F41: nobody else is let in; those that are there go on, across both processes, also when Redis drops the connections."""
    async with (
        RedisProxy(hosts.redis.address) as proxy,
        hosts(2, lambda n: {} if n else {"files": 96, "cache": {"options": {"url": proxy.url}}}) as (full, other),
        Device(full.url) as one,
        Device(other.url) as two,
    ):
        for device in (one, two):
            await device.sync()
        await begin(one, "c1", doc("0"))
        raws = [await RawSocket(full.url).dial() for _ in range(120)]
        await until(lambda: descriptors(full.pid) >= 90)
        raws.append(await RawSocket(full.url).dial())
        with pytest.raises((ConnectionError, TimeoutError, asyncio.IncompleteReadError)):
            async with asyncio.timeout(2):
                await raws[-1].upgrade()
        for version in range(1, 7):
            writer, reader = (one, two) if version % 2 else (two, one)
            edit = {"chatId": "c1", "content": doc(f"{version}"), "basedOnVersion": version}
            answer = await writer.ask("draft_update", edit)
            assert answer["type"] == "draft_updated", answer
            assert (await reader.event("draft_updated"))["version"] == version + 1
        before = proxy.seen.connects
        proxy.reset()  # what it closes it may open again, and nothing more
        await until(lambda: proxy.seen.connects > before)
        await until(lambda: _edited(one, "c1"), 20)
        for raw in raws:
            raw.writer.close()
        await asyncio.gather(*(raw.writer.wait_closed() for raw in raws), return_exceptions=True)
        await until(lambda: _comes_in(full), 20)
        assert (one.close_code, two.close_code) == (None, None)
        assert (await two.ask("ping", {}))["type"] == "pong"
        full.spotless()


async def _edited(device: Device, chat: str) -> bool:
    [found] = (await device.ask("chats_request", {"ids": [chat]}))["payload"].get("chats", [None])
    if found is None:
        return False
    edit = {"chatId": chat, "content": doc("again"), "basedOnVersion": found["version"]}
    return bool((await device.ask("draft_update", edit))["type"] == "draft_updated")


async def _comes_in(host: Host) -> bool:
    device = Device(host.url, "late")
    try:
        await device.connect()
        return bool((await device.sign_in())["type"] == "ready")
    except Exception:  # whatever keeps it out, it tries again
        return False
    finally:
        await device.close()


# -- F44: clocks that differ -------------------------------------------------------------------------------------------


async def test_f44_clocks_that_differ_by_minutes_order_nothing_and_end_nothing(hosts: Hosts) -> None:
    """F44: one host is five minutes ahead, one an hour more; versions, sequences, cursors, leases and drafts are Redis' affair."""
    try:
        library = find_faketime()
    except Missing as missing:
        pytest.skip(str(missing))
    shifts = ("+5m", "+65m", "+0")
    lifetimes = {"ttl": "2m", "draft_ttl": "2m"}
    async with hosts(
        3,
        lambda n: {"environment": {"LD_PRELOAD": library, "FAKETIME": shifts[n]}},
        drafts=AT_ONCE,
        chats=lifetimes,
    ) as all_hosts:
        people = [await Device(host.url).open() for host in all_hosts]
        times = [device.ready["serverTime"] for device in people]
        minutes = [int(re.split("[T:]", each)[1]) * 60 + int(re.split("[T:]", each)[2]) for each in times]
        assert (minutes[0] - minutes[2]) % 1440 in (4, 5, 6), "the fault happened"
        assert (minutes[1] - minutes[0]) % 1440 in (59, 60, 61)
        assert len({device.ready["epoch"] for device in people}) == 1
        for device in people:
            await device.sync()
        # One chat, by turns: every version is the next one, and everybody hears of it at once.
        await begin(people[0], "c1", doc("0"))
        await edit_by_turns(people, "c1", 29)
        sequences = [(await say(people[n % 3], "c1", f"m{n}", doc("said")))["message"]["sequence"] for n in range(9)]
        assert sequences == list(range(1, 10)), "the order is that of acceptance"
        # A cursor of one is good with any other.
        cursor = (await people[0].sync())[-1]["cursor"]
        for device in people[1:]:
            assert [frame["·type"] for frame in await device.sync(cursor=cursor)] == ["sync_delta"]
        # Leases: each has its part of the outbox, none ends early, and fences rise.
        await until(lambda: hosts.even(*all_hosts), 30)
        held = await hosts.holders()
        await asyncio.sleep(7)  # longer than a lease
        assert await hosts.holders() == held
        assert not any(host.events("outbox_lease_over") for host in all_hosts)
        # A draft that nobody stores has its two minutes, whichever clock wrote it.
        for number, device in enumerate(people):
            await begin(device, f"only-{number}", doc("only here"))
        found = {chat["id"] for frame in await people[2].sync() for chat in frame["chats"]}
        assert {people[0].full(f"only-{number}") for number in range(3)} <= found
        await until(lambda: _all_stored(hosts, 9), 20)
        rows = hosts.rows("SELECT client_message_id FROM messages ORDER BY sequence")
        assert [row[0] for row in rows] == [f"m{number}" for number in range(9)]
        for device in people:
            await device.close()
        for host in all_hosts:
            host.spotless()


async def _all_stored(hosts: Hosts, count: int) -> bool:
    return len(hosts.rows("SELECT 1 FROM messages")) == count


# -- F46: cut off from Redis -------------------------------------------------------------------------------------------


async def test_f46_a_process_that_is_cut_off_sends_its_people_to_the_other(hosts: Hosts) -> None:
    """F46: not ready, `unavailable`, after five seconds 1013 and nobody let in; on the other side nothing is lost or doubled."""
    async with (
        RedisProxy(hosts.redis.address) as proxy,
        hosts(2, lambda n: {} if n else {"cache": {"options": {"url": proxy.url}}}, drafts=AT_ONCE) as (lost, fine),
    ):
        urls = [lost.url, fine.url]
        await until(lambda: hosts.even(lost, fine), 30)
        writers = [Writer(urls, f"w{number}", per_chat=10, rest=0.05) for number in range(8)]
        watchers = [Watcher(urls, f"w{number}") for number in range(8)]
        idlers = [Person(urls, f"i{number}") for number in range(30)]
        everybody = [*writers, *watchers, *idlers]
        async with alive(everybody):
            await until(lambda: all(person.device.ready for person in everybody), 30)
            # Half of them here, whatever chance would have it.
            here = [person for person in everybody if person.device.url == lost.url]
            assert len(here) >= 10
            proxy.black_hole()
            cut = time.monotonic()
            async with Device(fine.url, "bystander") as bystander:
                await until(lambda: _says_unavailable(lost), 10)
                while not lost.events("cut_off"):
                    assert time.monotonic() - cut < 15
                    assert (await bystander.ask("ping", {}))["type"] == "pong"
                    await asyncio.sleep(0.1)
                assert time.monotonic() - cut > 4.5, "not for every hiccup"
                await until(lambda: all(person.device.url == fine.url for person in here), 30)
                assert proxy.seen.held > 0, "the fault happened"
                turned_away = Device(lost.url, "late")
                await turned_away.connect()
                assert await turned_away.closed() == 1013
                [told_of] = [frame for frame in turned_away.events if frame["type"] == "error"]
                assert told_of["payload"]["code"] == "unavailable"
                assert 1000 <= told_of["payload"]["retryAfterMs"] <= 5000
                await turned_away.close()
                marks = [len(writer.accepted) for writer in writers]
                await until(lambda: all(len(w.accepted) > m + 2 for w, m in zip(writers, marks, strict=True)), 30)
                assert (await hosts.shares())[fine.pid] == 64, "who can reach it works the outbox"
            proxy.clear()
            await until(lambda: _ready(lost), 20)
            await until(lambda: _comes_in(lost), 20)
            await until(lambda: hosts.even(lost, fine), 30)
        ends = Counter(end for person in here for end in person.ends)
        assert set(ends) == {1013}, "each was told where to go, or rather where not"
        assert ends[1013] >= len(here)
        await stored(hosts, writers)
        await told(writers)
        for host in (lost, fine):
            host.spotless()


async def _says_unavailable(host: Host) -> bool:
    status, body = await host.ask("/readyz")
    return status == 503 and body["parts"]["cache"]["state"] == "unavailable"


async def _ready(host: Host) -> bool:
    return (await host.ask("/readyz"))[0] == 200
