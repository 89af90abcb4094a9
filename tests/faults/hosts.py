"""Sidecar processes as they run on several hosts: one Redis, one store, one key file; each with a folder and a port of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.world import rows
from tests.process import SidecarProcess
from tests.services.ports import ReservedPort
from tests.services.redis_server import RedisServer

KEY = "a master key of more than 32 characters"
FAST = {
    "frames_per_second": 5000,
    "burst": 5000,
    "draft_chats_per_user": 1000,
    "connections_per_address": 5000,
    "connections_per_user": 1000,
}
"""No limit that a test could meet."""


class Host(SidecarProcess):
    """A sidecar whose port stays its own while it is down, so that its clients find it again."""

    def __init__(self, folder: Path, port: ReservedPort, **arguments: Any) -> None:
        self.port = port
        arguments["server"] = {"drain": "1s", **arguments.get("server", {}), "port": port.number}
        super().__init__(folder, **arguments)
        self.url = f"http://127.0.0.1:{port.number}"

    async def restart(self) -> None:
        """Starts it again after it ended; returns when it listens."""
        await self.__aenter__()

    async def ask(self, path: str) -> tuple[int, Any]:
        """Status and body of a route, over a connection of its own."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}{path}") as response:
            return response.status, await response.json(content_type=None)

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log of this name."""
        return [line for line in self.lines() if line["event"] == name]

    def spotless(self) -> None:
        """Fails where its log tells of something that nobody expected."""
        log = self.log.read_text()
        assert "Traceback" not in log, log
        unexpected = {"unexpected", "feed_failed", "housekeeping_failed", "look_failed", "notice_not_understood"}
        assert not [line for line in self.lines() if line["event"] in unexpected]


class Hosts:
    """Makes them: `async with hosts(2, drafts={…}) as (one, other)`. Their store is `folder/data/store.sqlite`, for `rows(folder, …)`."""

    def __init__(self, folder: Path, redis: RedisServer, *, url: str = "", cluster: bool = False) -> None:
        """`redis`: where the keys are; in a `cluster` one node of it, and only what needs no keys can be asked here.

        `url`: where the sidecars find it, if not there.
        """
        self.folder = folder
        self.redis = redis
        self._url = url
        self._options = {"cluster": True} if cluster else {}

    def sections(self, **sections: Any) -> dict[str, Any]:
        """What all of them have; these instead of their like."""
        common = self.folder / "data"
        common.mkdir(mode=0o700, exist_ok=True)
        store = sections.pop("persistence", {"use": "sqlite"})
        found = {
            "cache": {"use": "redis", "options": {"url": self._url or self.redis.url, **self._options}},
            "encryption": {"use": "local", "options": {"path": str(common / "keys"), "master_key": KEY}},
            "persistence": {**store, "options": {"path": str(common / "store.sqlite"), **store.get("options", {})}},
            "limits": {**FAST, **sections.pop("limits", {})},
        }
        return {**found, **sections}

    @asynccontextmanager
    async def __call__(
        self, count: int = 2, each: Callable[[int], Mapping[str, Any]] = lambda number: {}, **sections: Any
    ) -> AsyncIterator[list[Host]]:
        """`each`: what differs, by number from 0; a cache's options on top of the common ones."""
        with Ports() as ports:
            async with AsyncExitStack() as stack:
                made = []
                for number in range(count):
                    own = self.sections(**sections)
                    different = dict(each(number))
                    own["cache"] = {**own["cache"], **different.pop("cache", {})}
                    host = Host(self.folder / f"host-{number}", ports.take(), **{**own, **different})
                    stack.push_async_callback(stop, host)
                    made.append(host)
                await asyncio.gather(*(host.__aenter__() for host in made))
                yield made

    async def holders(self) -> dict[int, int]:
        """The process that works each shard of the outbox, by its id; one that died has them until its leases end."""
        found: dict[int, int] = {}
        async with self.redis.client() as redis:
            for shard in range(64):
                lease = f"sidecar:{{{shard}}}:lease:outbox:{shard}"
                names: list[bytes] = await redis.execute_command("HKEYS", lease)  # type: ignore[no-untyped-call]
                found.update((shard, int(name.partition(b"-")[0])) for name in names)
        return found

    async def shares(self) -> Counter[int]:
        """How many shards each process works."""
        return Counter((await self.holders()).values())

    async def even(self, *processes: Host) -> bool:
        """Whether these share all of the outbox evenly."""
        shares = await self.shares()
        return len(shares) == len(processes) and all(
            abs(shares[each.pid] - 64 / len(processes)) < 4 for each in processes
        )

    async def entries(self, *sets: str) -> int:
        """How many entries of the outbox wait in these sorted sets: `waiting`, `parked`, `due`."""
        count = 0
        async with self.redis.client() as client:
            redis: Any = client
            for shard in range(64):
                for name in sets:
                    count += await redis.zcard(f"sidecar:{{{shard}}}:{name}")
        return count

    async def delivered(self) -> bool:
        """Whether nothing waits for a plugin, nor will soon. What is parked does not count."""
        return await self.entries("waiting", "due") == 0

    def rows(self, statement: str, *values: object) -> list[Any]:
        return rows(self.folder, statement, *values)


class Ports:
    """Ports that are given back together."""

    def __init__(self) -> None:
        self._ports: list[ReservedPort] = []

    def __enter__(self) -> Ports:
        return self

    def take(self) -> ReservedPort:
        self._ports.append(ReservedPort())
        return self._ports[-1]

    def __exit__(self, *_: object) -> None:
        for port in self._ports:
            port.close()


async def stop(host: SidecarProcess) -> None:
    if hasattr(host, "_process"):
        await host.stop()


@pytest.fixture
def hosts(tmp_path: Path, redis_server: RedisServer) -> Hosts:
    """Hosts that share the tests' Redis."""
    return Hosts(tmp_path, redis_server)
