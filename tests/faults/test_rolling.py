"""F36: three processes restarted one after the other while people write. F37: a newer version beside this one."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from tests.faults.hosts import Host, Hosts, hosts
from tests.faults.people import Person, Watcher, Writer, alive
from tests.faults.test_killed import stored, told
from tests.integration.world import AT_ONCE, until

__all__ = ["hosts"]

IDLE = 240
"""Sockets beside those of the writers; the design's 5,000, scaled to what a test may take."""
DRAIN = 2.0


class Idler(Person):
    """A device that only keeps its socket, and notes when it was closed."""

    ended_at = 0.0

    async def connected(self) -> None:
        await super().connected()
        self.ended_at = time.monotonic()


@pytest.mark.timeout(300)
async def test_f36_three_processes_are_restarted_one_after_the_other(hosts: Hosts) -> None:
    """F36: every socket is closed with 1012, spread over the drain; every process exits with 0 in time; nothing is lost."""
    async with hosts(3, server={"drain": f"{DRAIN:g}s"}, drafts=AT_ONCE) as all_hosts:
        urls = [host.url for host in all_hosts]
        writers = [Writer(urls, f"w{number}", per_chat=10, rest=0.05, pause=0.2) for number in range(9)]
        watchers = [Watcher(urls, f"w{number}", pause=0.2) for number in range(9)]
        idlers = [Idler([urls[number % 3]], f"i{number % 40}", pause=0.2) for number in range(IDLE)]
        async with alive([*writers, *watchers, *idlers]):
            await until(lambda: all(idler.device.ready for idler in idlers), 60)
            await until(lambda: min(len(writer.accepted) for writer in writers) > 3, 30)
            for idler in idlers:
                idler.urls = urls  # from now on they come back to anybody
            for host in all_hosts:
                here = [idler for idler in idlers if idler.device.url == host.url and not idler.device.close_code]
                assert len(here) > 20
                await _restart(host)
                ends = sorted(idler.ended_at for idler in here)
                assert ends[-1] - ends[0] > DRAIN / 2, "they are not closed all at once"
                crowd = max(Counter(int((end - ends[0]) / DRAIN * 4) for end in ends).values())
                assert crowd < len(here) * 0.6, "nor most of them in one quarter of the time"
            marks = [len(writer.accepted) for writer in writers]
            await until(lambda: all(len(w.accepted) > mark + 2 for w, mark in zip(writers, marks, strict=True)), 30)
        ends_of_all = Counter(end for person in (*writers, *watchers, *idlers) for end in person.ends)
        assert set(ends_of_all) == {1012}, "each was told, and nobody was cut off"
        assert ends_of_all[1012] >= IDLE
        gaps = sorted(gap for person in (*writers, *watchers, *idlers) for gap in person.gaps)
        assert gaps[-1] < 15, "nobody is left outside"
        await stored(hosts, writers)
        await told(writers)
        for host in all_hosts:
            host.spotless()
            assert not host.events("connections_left")


async def _restart(host: Host) -> None:
    begun = time.monotonic()
    host.signal(signal.SIGTERM)
    await until(lambda: not host.running, 30)
    assert await host.exit() == 0
    assert time.monotonic() - begun < 20
    await host.restart()
