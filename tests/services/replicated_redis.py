"""A primary with one replica, at an address that follows the primary."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from redis.asyncio import Redis

from tests.services.proxy import FaultProxy
from tests.services.redis_proxy import RedisProxy
from tests.services.redis_server import RedisServer, Setting
from tests.services.waiting import until


class ReplicatedRedis:
    """`async with ReplicatedRedis(folder) as pair`: clients come to `pair.url`, which leads to the primary of the moment.

    So do cloud providers and Sentinel set-ups behind a proxy: after `promote()` the address is the same and the server
    another, which may lag behind what the first one answered.
    """

    def __init__(self, folder: Path, **config: Setting) -> None:
        """`config`: of both servers, as for `RedisServer`."""
        self._folder = folder
        self._config: dict[str, Setting] = {"repl_diskless_sync_delay": 0, **config}
        self._opened = AsyncExitStack()
        self.primary: RedisServer
        """The one that clients come to."""
        self.replica: RedisServer
        """The other one: after `promote()` the former primary, which goes on as if nothing had been, or is down."""
        self.proxy: RedisProxy
        """What clients come through; for faults of theirs."""
        self._replication: FaultProxy

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            self.primary = await opened.enter_async_context(self._server("one"))
            self.replica = await opened.enter_async_context(self._server("other"))
            self._replication = await opened.enter_async_context(FaultProxy(self.primary.address))
            self.proxy = await opened.enter_async_context(RedisProxy(self.primary.address))
            await self._follow()
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    def _server(self, name: str) -> RedisServer:
        return RedisServer(self._folder / name, under=(), **self._config)

    @property
    def url(self) -> str:
        return self.proxy.url

    def client(self, **options: Any) -> Redis:
        """A client for the running loop, of whoever is primary."""
        return Redis.from_url(self.url, **options)

    async def _follow(self) -> None:
        self._replication.target = self.primary.address
        self._replication.reset()
        await self.replica.cli("REPLICAOF", self._replication.host, self._replication.port)
        await until(self._is_linked, "the replica did not find its primary")

    async def _is_linked(self) -> bool:
        return bool((await self.replica.info("replication")).get("master_link_status") == "up")

    async def lag(self) -> int:
        """How many bytes of the primary's changes the replica does not have yet."""
        ahead, behind = await self.primary.info("replication"), await self.replica.info("replication")
        return int(ahead["master_repl_offset"]) - int(behind["slave_repl_offset"])

    async def caught_up(self) -> None:
        """Waits until the replica has all that the primary has now."""

        async def done() -> bool:
            return await self._is_linked() and await self.lag() <= 0

        await until(done, "the replica did not catch up")

    def pause_replication(self) -> None:
        """From here on the replica learns of nothing, and neither side is told."""
        self._replication.black_hole()

    def resume_replication(self) -> None:
        """It learns of all that it missed."""
        self._replication.clear()

    async def promote(self) -> None:
        """The replica becomes the primary with what it has, and clients are led to it; their connections are reset.

        What only the former primary had is lost to them. Nothing is done to that one: kill it before, if it is to be dead.
        """
        await self.replica.cli("REPLICAOF", "NO", "ONE")
        self._replication.drop()
        self.primary, self.replica = self.replica, self.primary
        self.proxy.target = self.primary.address
        self.proxy.reset()

    async def rejoin(self) -> None:
        """The former primary, which is running again, becomes the replica, and forgets what only it had."""
        self._replication.clear()
        await self._follow()
        await self.caught_up()
