"""Workers that do not start: what ends the whole, with which exit status, and what is tried again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.workers import PRIVATE, Supervised, get, supervised
from tests.integration.world import until
from tests.process import SidecarProcess

__all__ = ["supervised"]


@asynccontextmanager
async def started(folder: Path, **sections: Any) -> AsyncIterator[SidecarProcess]:
    """Three workers that are not expected to come up."""
    sections["server"] = {"workers": 3, **sections.get("server", {})}
    process = SidecarProcess(folder, **{"cache": PRIVATE, **sections})
    await process.start()
    try:
        yield process
    finally:
        await process.stop()


def doomed(how: str, spared: int = 0) -> dict[str, Any]:
    return {"use": "tests.plugins.doomed:Doomed", "options": {"how": how, "spared": spared}}


def deaths(process: SidecarProcess) -> list[str]:
    return [line["code"] for line in process.lines() if line["event"] == "worker_died"]


def starts(folder: Path) -> int:
    return (folder / "data" / "starts").stat().st_size


async def test_a_wrong_configuration_is_2_before_anything_is_started(tmp_path: Path) -> None:
    async with started(tmp_path, cache={"use": "memory"}) as process:
        assert await process.exit() == 2
        assert await process.output() == ""
    assert "several processes need a cache that they share" in process.log.read_text()
    assert not (tmp_path / "data").exists()


async def test_wrong_options_of_a_plugin_are_2_and_said_once(tmp_path: Path) -> None:
    async with started(tmp_path, encryption={"use": "local", "options": {"pathh": "x"}}) as process:
        assert await process.exit() == 2
    complaints = [line for line in process.log.read_text().splitlines() if not line.startswith("{")]
    assert len(complaints) == 1
    assert "encryption.options.pathh" in complaints[0]


async def test_a_part_that_refuses_is_3_for_the_whole_and_is_not_tried_again(tmp_path: Path) -> None:
    async with started(tmp_path, auth=doomed("refused")) as process:
        assert await process.exit() == 3
        assert await process.output() == ""
    complaints = [line for line in process.log.read_text().splitlines() if not line.startswith("{")]
    assert complaints == ["sidecar: auth: the credentials are wrong; mend them"]
    assert starts(tmp_path) == 1


async def test_a_part_that_refuses_the_second_worker_is_3_for_the_whole(tmp_path: Path) -> None:
    """The first came up and is ended as always; it never said that it listens."""
    async with started(tmp_path, auth=doomed("refused", spared=1)) as process:
        assert await process.exit() == 3
        assert await process.output() == ""
    assert starts(tmp_path) <= 3
    assert not list((tmp_path / "data").glob("*.sock"))


@pytest.mark.parametrize("how", ["killed", "away"])
async def test_workers_that_die_at_once_again_and_again_are_given_up(tmp_path: Path, how: str) -> None:
    async with started(tmp_path, auth=doomed(how), server={"workers": 2}) as process:
        assert await process.exit() == 1
        assert await process.output() == ""
    assert starts(tmp_path) == 5
    waits = [line["seconds"] for line in process.lines() if line["event"] == "worker_died"]
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[0], "each time it is waited for longer"
    assert process.lines()[-1]["event"] in {"workers_given_up", "workers_stopping"}


async def test_a_worker_that_does_not_come_back_is_tried_again_while_others_serve(supervised: Supervised) -> None:
    """A refusal too: what serves goes on, and the day comes when it is mended."""
    async with supervised(auth=doomed("refused", spared=3)) as process:
        killed, *others = (each.pid for each in process.workers())
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(deaths(process)) >= 3)
        assert deaths(process)[:3] == ["SIGKILL", "3", "3"]
        assert {*others} <= {each.pid for each in process.workers()}
        process.signal(signal.SIGHUP)  # which is no end of it
        await until(lambda: any(line["event"] == "worker_not_replaced" for line in process.lines()))
        died = len(deaths(process))
        await until(lambda: len(deaths(process)) > died, 30)
        assert {*others} <= {each.pid for each in process.workers()}
        process.write_config(auth=doomed("refused", spared=1000))
        process.signal(signal.SIGHUP)
        await until(
            lambda: len(process.workers()) == 3 and not {*others} & {each.pid for each in process.workers()}, 30
        )
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0


async def test_a_worker_that_is_still_starting_is_dealt_nobody(supervised: Supervised, tmp_path: Path) -> None:
    """The others answer everybody meanwhile; what the kernel had dealt it would have to wait."""
    async with supervised(auth=doomed("slow", spared=3)) as process:
        killed = process.workers()[0].pid
        os.kill(killed, signal.SIGKILL)
        await until(lambda: starts(tmp_path) == 4)
        for _ in range(30):
            async with asyncio.timeout(2):
                assert (await get(process, "/livez"))[0] == 200
        assert all(each.pid != killed for each in process.workers())


@pytest.mark.parametrize("shared", [False, True])
async def test_a_port_in_use_is_3_and_named(tmp_path: Path, shared: bool) -> None:
    """By a listener like any other, or by the workers of another sidecar of this user, which would share it."""
    with socket.socket() as taken:
        if shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with started(tmp_path, server={"port": port}) as process:
            assert await process.exit() == 3
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in process.log.read_text()
    assert not list((tmp_path / "data").glob("*.sock"))


async def test_a_data_dir_in_use_is_3_and_named(supervised: Supervised, tmp_path: Path) -> None:
    async with supervised():
        second = tmp_path / "second"
        second.mkdir()
        async with started(second, data_dir=str(tmp_path / "data")) as process:
            assert await process.exit() == 3
    assert "another sidecar serves on" in process.log.read_text()


async def test_sigterm_during_the_start_ends_it_with_0(tmp_path: Path) -> None:
    async with started(tmp_path, auth=doomed("away")) as process:
        await until((tmp_path / "data" / "starts").exists)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
