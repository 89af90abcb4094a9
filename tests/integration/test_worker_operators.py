"""Operators and several workers: one socket for commands, one scrape for the metrics of all, every log line with its worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.ids import hash_user
from sidecar.unix_sockets import reachable
from tests.device import Device, doc
from tests.integration.workers import Supervised, close, get, holder, spread, supervised
from tests.integration.world import until
from tests.process import SidecarProcess

__all__ = ["supervised"]

ALICE = hash_user("alice")


async def operate(folder: Path, command: str, **arguments: Any) -> list[dict[str, Any]]:
    with reachable(folder / "data" / "sidecar.sock") as name:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(name)) as session,
            session.post(f"http://sidecar/operate/{command}", data=json.dumps(arguments)) as response,
        ):
            assert response.status == 200
            return [json.loads(line) for line in (await response.text()).splitlines()]


async def _under_way(folder: Path, command: str) -> None:
    lock = folder / "data" / "operators.lock"
    await until(lambda: lock.exists() and lock.read_text() == command)


async def samples(process: SidecarProcess) -> dict[tuple[str, str], float]:
    """By name and worker; those of other labels are added up."""
    status, text = await get(process, "/metrics")
    assert status == 200
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, sample.labels["worker"])
            found[key] = found.get(key, 0.0) + sample.value
    return found


async def test_one_scrape_has_the_metrics_of_every_worker(supervised: Supervised) -> None:
    async with supervised() as process:
        found = await spread(process, 2)
        for devices in found.values():
            for device in devices:
                await device.ask("ping", {})
        counted = await samples(process)
        assert [counted["sidecar_worker_up", number] for number in "123"] == [1.0] * 3
        assert [counted["sidecar_connections", number] for number in "123"] == [2.0] * 3
        assert [counted["sidecar_worker_starts_total", number] for number in "123"] == [1.0] * 3
        assert all(counted["sidecar_frames_total", number] >= 2 for number in "123")
        _, text = await get(process, "/metrics")
        headings = [line for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(headings) == len(set(headings)), "each family stands there once"
        await close(found)


async def test_a_worker_that_does_not_answer_is_shown_as_such_and_the_others_all_the_same(
    supervised: Supervised,
) -> None:
    async with supervised() as process:
        stopped = process.workers()[2]
        os.kill(stopped.pid, signal.SIGSTOP)

        async def down() -> bool:
            try:
                async with asyncio.timeout(3):
                    counted = await samples(process)
            except TimeoutError:
                return False  # dealt to the one that sleeps
            return [counted["sidecar_worker_up", number] for number in "123"].count(0.0) == 1

        await until(down, 30)
        os.kill(stopped.pid, signal.SIGKILL)
        await until(lambda: len({each.pid for each in process.workers()} - {stopped.pid}) == 3)

        async def replaced() -> bool:
            counted = await samples(process)
            return sorted(counted.get(("sidecar_worker_starts_total", number), 0.0) for number in "123") == [
                1.0,
                1.0,
                2.0,
            ]

        await until(replaced)


async def test_metrics_on_a_port_of_their_own_are_those_of_all_workers_too(supervised: Supervised) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with supervised(server={"metrics_port": port}) as process:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as response:
            text = await response.text()
        for number in "123":
            assert f'sidecar_worker_up{{worker="{number}"}} 1.0' in text
        assert (await get(process, "/metrics"))[0] == 403


async def test_commands_find_a_worker_and_those_that_change_something_go_one_at_a_time(
    supervised: Supervised, tmp_path: Path
) -> None:
    """Whichever workers take them: the second is told that the sidecar is busy, and with what."""
    async with supervised() as process:
        async with Device(process.url) as device:
            answer = await device.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
            assert answer["type"] == "chat_initiated"
            # The draft goes with that worker's own cache: its key belongs to nobody, and is pruned after a while.
            os.kill(holder(process, device), signal.SIGKILL)
        pruning = asyncio.create_task(operate(tmp_path, "keys-prune", grace=2.0))
        await _under_way(tmp_path, "keys-prune")
        for _ in range(5):
            [refusal] = await operate(tmp_path, "keys-rotate")
            assert refusal["error"]["message"] == "this sidecar is busy with keys-prune"
        for _ in range(20):
            assert "result" in (await operate(tmp_path, "plugins-positions"))[-1], "looking is always possible"
        assert (await pruning)[-1] == {"result": {"count": 1, "kept": 0}}
        assert "result" in (await operate(tmp_path, "keys-rotate"))[-1]


async def test_a_worker_that_dies_in_the_middle_of_a_command_leaves_the_others_free(
    supervised: Supervised, tmp_path: Path
) -> None:
    async with supervised() as process:
        async with Device(process.url) as device:
            await device.ask("draft_update", {"tempChatId": "c1", "content": doc("x"), "basedOnVersion": 0})
            os.kill(holder(process, device), signal.SIGKILL)
        pruning = asyncio.create_task(operate(tmp_path, "keys-prune", grace=60))
        await _under_way(tmp_path, "keys-prune")
        for worker in process.workers():
            os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await pruning
        assert "result" in (await operate(tmp_path, "keys-rotate"))[-1], "it waited for the next worker"


async def test_workers_that_replaced_others_take_the_commands(supervised: Supervised, tmp_path: Path) -> None:
    async with supervised() as process:
        process.signal(signal.SIGHUP)
        await until(lambda: any(line["event"] == "workers_replaced" for line in process.lines()), 30)
        for _ in range(20):
            assert "result" in (await operate(tmp_path, "plugins-positions"))[-1]
        counted = await samples(process)
        assert [counted["sidecar_worker_starts_total", number] for number in "123"] == [2.0] * 3


async def test_the_command_line_asks_whichever_worker_answers(supervised: Supervised) -> None:
    async with supervised() as process, Device(process.url) as device:
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidecar", "users", "devices", "--user", "alice", "--json"),
            *("--config", str(process.config)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await asking.communicate()
        assert asking.returncode == 0
        assert [row["id"] for row in json.loads(out)] == [device.ready["device"]["id"]]


async def test_every_log_line_of_a_worker_says_which_it_is(supervised: Supervised) -> None:
    async with supervised(logging={"level": "DEBUG", "format": "json"}) as process:
        found = await spread(process)
        await close(found)
        process.signal(signal.SIGTERM)
        assert await process.exit() == 0
        lines = [line for line in process.lines() if line["logger"] != "sidecar.supervisor"]
        assert {line.get("worker") for line in lines} == {"1", "2", "3"}
