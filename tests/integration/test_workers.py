"""Several workers on one port (semantics §10): dealt connections, replaced when they die, ended one by one, never orphans."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.device import Device, doc
from tests.integration.workers import PRIVATE, Supervised, close, get, holder, spread, supervised
from tests.integration.world import until
from tests.process import SidecarProcess, lives

__all__ = ["supervised"]


def _events(process: SidecarProcess, name: str) -> list[dict[str, Any]]:
    return [line for line in process.lines() if line["event"] == name]


# -- they serve --------------------------------------------------------------------------------------------------------


async def test_workers_share_the_port_and_each_says_who_it_is(supervised: Supervised) -> None:
    async with supervised() as process:
        assert len(process.workers()) == 3
        found = await spread(process)
        met: set[int] = set()
        async with asyncio.timeout(20):
            while len(met) < 3:
                met.add(json.loads((await get(process, "/readyz"))[1])["worker"])
        assert met == {1, 2, 3}
        for [device] in found.values():
            answer = await device.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
            assert answer["type"] == "chat_initiated"
        await close(found)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        assert await process.output() == "", "it says once where it listens"
        assert not list((Path(process.config).parent / "data").glob("*.sock")), "the sockets go with it"
    stopping = _events(process, "stopping")
    assert [line["worker"] for line in stopping] == ["1", "2", "3"]
    assert "Traceback" not in process.log.read_text()


# -- one dies ----------------------------------------------------------------------------------------------------------


async def test_f35_a_worker_that_is_killed_is_replaced_and_the_others_go_on(supervised: Supervised) -> None:
    """F35: kill -9; its sockets are gone, those of the others are not, and there are as many workers as before."""
    async with supervised() as process:
        found = await spread(process, 2)
        killed, *others = found
        os.kill(killed, signal.SIGKILL)
        for device in found[killed]:
            assert await device.closed() == 1006
        await until(lambda: len({each.pid for each in process.workers()} - found.keys()) == 1)
        for pid in others:
            for device in found[pid]:
                assert (await device.ask("ping", {}))["type"] == "pong"
                assert holder(process, device) == pid
        again = await spread(process)
        assert set(others) < set(again), "the one in its place is dealt connections as well"
        await close(found)
        await close(again)
        [died] = _events(process, "worker_died")
        assert (died["pid"], died["code"]) == (killed, "SIGKILL")


async def test_f39_a_worker_that_gives_no_sign_of_life_is_replaced(tmp_path: Path) -> None:
    """F39: its loop is blocked, the kernel goes on dealing it connections, and nobody outside can tell."""
    quickly = "import sidecar.server.supervisor as module; module._SILENT_SECONDS = 2.5"
    sections: dict[str, Any] = {"server": {"workers": 2}, "cache": PRIVATE}
    async with SidecarProcess(tmp_path, before=quickly, **sections) as process:
        stopped = process.workers()[0].pid
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: all(each.pid != stopped for each in process.workers()) and len(process.workers()) == 2)
        [died] = _events(process, "worker_died")
        assert (died["pid"], died["code"]) == (stopped, "SIGKILL")
        assert "no sign of life" in _events(process, "worker_killed")[0]["reason"]
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0


async def test_a_supervisor_that_slept_kills_nobody_for_having_been_silent(tmp_path: Path) -> None:
    quickly = "import sidecar.server.supervisor as module; module._SILENT_SECONDS = 1.5"
    async with SidecarProcess(tmp_path, before=quickly, server={"workers": 2}, cache=PRIVATE) as process:
        before = [each.pid for each in process.workers()]
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(3)
        process.signal(signal.SIGCONT)
        await asyncio.sleep(1)
        assert [each.pid for each in process.workers()] == before
        assert _events(process, "worker_killed") == []


# -- the end -----------------------------------------------------------------------------------------------------------


async def _ends(found: dict[int, list[Device]]) -> dict[int, list[float]]:
    """When the sockets of each worker were closed, all with 1012."""
    ends: dict[int, list[float]] = {pid: [] for pid in found}

    async def end(pid: int, device: Device) -> None:
        assert await device.closed() == 1012
        ends[pid].append(time.monotonic())

    await asyncio.gather(*(end(pid, device) for pid, devices in found.items() for device in devices))
    return ends


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGTERM to all"])
async def test_f36_sigterm_closes_the_sockets_of_one_worker_after_the_other(supervised: Supervised, how: str) -> None:
    """F36: nobody is let in any more, the workers empty one by one within `server.drain`, exit 0.

    A terminal's Ctrl-C and systemd send the signal to every process at once, which changes nothing.
    """
    async with supervised(server={"drain": "3s"}) as process:
        found = await spread(process, 3)
        begun = time.monotonic()
        if how == "SIGTERM to all":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.signal(signal.Signals[how])
        ending = asyncio.create_task(_ends(found))
        await asyncio.sleep(0.3)
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(process, "/livez")
        ends = await ending
        assert await process.exit() == 0
        assert max(time.monotonic() - begun, 0) < 3 + 15
        await close(found)
    spans = sorted((min(times), max(times)) for times in ends.values())
    for (_, last), (first, _) in pairwise(spans):
        assert last < first, "one worker is empty before the next begins"
    assert all(last - first > 0.2 for first, last in spans), "and each closes its sockets one after the other"
    assert _events(process, "worker_killed") == []


async def test_f36_a_worker_that_cannot_end_is_killed_in_time(tmp_path: Path) -> None:
    quickly = "import sidecar.server.supervisor as module; module._LEAVE_SECONDS = 2.0"
    sections: dict[str, Any] = {"server": {"workers": 2, "drain": "100ms"}, "cache": PRIVATE}
    async with SidecarProcess(tmp_path, before=quickly, **sections) as process:
        stopped = process.workers()[0].pid
        os.kill(stopped, signal.SIGSTOP)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        assert [line["pid"] for line in _events(process, "worker_killed")] == [stopped]


async def test_the_end_of_the_supervisor_is_the_end_of_its_workers(supervised: Supervised, tmp_path: Path) -> None:
    """kill -9 of the parent: the sockets are closed as always, no process stays, and another sidecar can take the port."""
    async with supervised() as process:
        found = await spread(process, 2)
        workers = process.workers()
        url = process.url
        process.signal(signal.SIGKILL)
        await process.exit()
        await _ends(found)
        await until(lambda: not any(map(lives, workers)))
        await close(found)
    port = int(url.rpartition(":")[2])
    async with supervised(server={"port": port}) as process:
        assert process.url == url
        assert (await get(process, "/livez"))[0] == 200


async def test_an_orphan_that_sleeps_keeps_no_other_alive(supervised: Supervised) -> None:
    """A worker holds nothing of what tells the others that their supervisor is gone."""
    async with supervised() as process:
        *others, youngest = process.workers()
        os.kill(youngest.pid, signal.SIGSTOP)
        process.signal(signal.SIGKILL)
        await process.exit()
        await until(lambda: not any(map(lives, others)))
        assert lives(youngest)
        os.kill(youngest.pid, signal.SIGCONT)
        await until(lambda: not lives(youngest))


ORPHAN = """
import asyncio, socket, sys, time
from sidecar.server.line import Line
here, there = socket.socketpair()
async def main():
    async with Line(there, 0.3):
        here.close()
        time.sleep(float(sys.argv[1]))
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_an_orphan_whose_loop_is_blocked_ends_too() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", ORPHAN, "60")
    try:
        assert await asyncio.wait_for(process.wait(), 20) == 1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# -- a rolling restart -------------------------------------------------------------------------------------------------


async def test_f36_sighup_replaces_the_workers_one_by_one_while_the_others_serve(supervised: Supervised) -> None:
    """F36: at no time is nobody there, each socket is closed with 1012, and the new workers have the new configuration."""
    async with supervised(titles={"max_length": 100}) as process:
        found = await spread(process, 2)
        assert {device.hello["limits"]["maxTitleLength"] for [device, _] in found.values()} == {100}
        process.write_config(titles={"max_length": 200}, server={"workers": 5, "port": 0})
        refused = 0
        process.signal(signal.SIGHUP)
        ending = asyncio.create_task(_ends(found))
        while not _events(process, "workers_replaced"):
            try:
                assert (await get(process, "/livez"))[0] == 200
            except aiohttp.ClientConnectorError:
                raise  # somebody accepts at any time
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                refused += 1  # it stood in the queue of one that was about to go
            await asyncio.sleep(0.01)
        await ending
        now = {each.pid for each in process.workers()}
        assert len(now) == 3
        assert now.isdisjoint(found)
        again = await spread(process)
        assert {device.hello["limits"]["maxTitleLength"] for [device] in again.values()} == {200}
        assert [line["names"] for line in _events(process, "restart_needed")] == [["server.workers"]]
        assert _events(process, "worker_died") == []
        assert refused <= 3
        await close(found)
        await close(again)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0


@pytest.mark.parametrize("what", ["wrong", "refused"])
async def test_f36_sighup_with_a_configuration_that_does_not_start_changes_nothing(
    supervised: Supervised, what: str
) -> None:
    async with supervised() as process:
        before = {each.pid for each in process.workers()}
        device = await Device(process.url).open()
        if what == "wrong":
            process.write_config(titles={"max_length": -1})
        else:
            process.write_config(
                encryption={"use": "local", "options": {"master_key": "another key, of 32 characters!!!!"}}
            )
        process.signal(signal.SIGHUP)
        await until(
            lambda: bool(_events(process, "configuration_refused" if what == "wrong" else "worker_not_replaced"))
        )
        assert {each.pid for each in process.workers()} == before
        assert (await device.ask("ping", {}))["type"] == "pong"
        await device.close()
        # What was read goes nowhere: one that is replaced later has the configuration that works.
        killed = process.workers()[0].pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(process.workers()) == 3 and killed not in {each.pid for each in process.workers()})
        await asyncio.sleep(0.5)
        assert len(_events(process, "worker_died")) == (1 if what == "wrong" else 2)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
