"""What the tests of several workers share: a supervised sidecar, and which of its workers has which socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.device import Device
from tests.process import SidecarProcess
from tests.services.redis_server import RedisServer

PRIVATE = {"use": "tests.plugins.private_cache:Private"}
"""A cache of each worker's own: enough for what the workers do not do together."""

Supervised = Callable[..., AbstractAsyncContextManager[SidecarProcess]]


@pytest.fixture
def supervised(tmp_path: Path) -> Supervised:
    """Serves with three workers: `async with supervised(server={"drain": "3s"}) as process`."""

    @asynccontextmanager
    async def run(**sections: Any) -> AsyncIterator[SidecarProcess]:
        sections["server"] = {"workers": 3, "drain": "300ms", **sections.get("server", {})}
        async with SidecarProcess(tmp_path, **{"cache": PRIVATE, **sections}) as process:
            yield process

    return run


@pytest.fixture
def together(supervised: Supervised, redis_server: RedisServer) -> Supervised:
    """As `supervised`, with a real cache that the workers share."""
    return partial(supervised, cache={"use": "redis", "options": {"url": redis_server.url}})


def holder(process: SidecarProcess, device: Device) -> int:
    """The process id of the worker that has this device's socket."""
    assert device._ws is not None
    port = device._ws.get_extra_info("sockname")[1]
    for worker in process.workers():
        if any(each.raddr and each.raddr.port == port for each in worker.net_connections("tcp")):
            return int(worker.pid)
    raise AssertionError("no worker has this socket")


async def spread(process: SidecarProcess, each: int = 1, **named: str) -> dict[int, list[Device]]:
    """Devices of as many persons, until every worker has so many of their sockets; by the worker's process id."""
    found: dict[int, list[Device]] = {int(worker.pid): [] for worker in process.workers()}
    async with asyncio.timeout(30):
        for number in range(1000):
            if all(len(devices) >= each for devices in found.values()):
                return found
            device = await Device(process.url, named.get("name", f"p{number}")).open()
            devices = found[holder(process, device)]
            if len(devices) < each:
                devices.append(device)
            else:
                await device.close()
    raise AssertionError("the kernel dealt some worker nothing")


async def close(found: dict[int, list[Device]]) -> None:
    for devices in found.values():
        for device in devices:
            await device.close()


async def get(process: SidecarProcess, path: str) -> tuple[int, str]:
    """Status and body, over a connection of its own."""
    async with aiohttp.ClientSession() as session, session.get(f"{process.url}{path}") as response:
        return response.status, await response.text()
