"""The nodes of a Redis Cluster: who has which slot, as far as it was heard, and the ways to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError, RedisClusterException, RedisError

from plugins.cache.redis_tasks import end
from sidecar import Unavailable

_REFRESH_SECONDS = 0.25
"""Between two looks at the cluster's layout, at least."""
_OUT_OF_REACH = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What redis-py raises for nodes that cannot be asked; one of them is none of its own errors."""
ONCE = Retry(NoBackoff(), 0)
"""No second try by redis-py: whoever asks knows better when to ask again."""

log = structlog.get_logger("plugins.cache.redis")


class Nodes:
    """Follows the layout of a cluster. An async context manager; belongs to one event loop. Errors: `Unavailable`."""

    def __init__(self, url: str, timeout: float, changed: Callable[[Collection[str]], object], **options: Any) -> None:
        """`url` of any node; `timeout` in seconds for a connection and for a look; `changed` is told after each look
        which addresses have slots; `options` of redis-py for connections."""
        self._url = url
        self._timeout = timeout
        self._changed = changed
        self._options = options
        self._refreshing: asyncio.Task[None] | None = None
        self._asked: asyncio.Future[None] | None = None
        self._closed = False
        self._cluster = self._anew()

    def _anew(self) -> RedisCluster:
        return RedisCluster.from_url(self._url, socket_timeout=self._timeout, **self._options)

    async def close(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            await end(self._refreshing)
        await self._cluster.aclose()

    # -- who has what --------------------------------------------------------------------------------------------------

    @property
    def known(self) -> bool:
        """Whether a layout was heard yet."""
        return bool(self._cluster.nodes_manager.slots_cache)

    @property
    def primaries(self) -> Mapping[str, ClusterNode]:
        """By address those that have slots, as it was heard last; there may be others by now."""
        return {node.name: node for node in self._cluster.get_primaries()}

    async def address_of(self, slot: int) -> str:
        """Where a slot is, as it was heard last."""
        if not self.known:
            await self.refresh()
        try:
            return str(self._cluster.nodes_manager.get_node_from_slot(slot).name)
        except (RedisClusterException, KeyError):
            self.refresh_soon()
            reason = "the Redis cluster does not cover every slot"
            raise Unavailable("cache", reason, retry_after=_REFRESH_SECONDS) from None

    @staticmethod
    def told_by(error: MovedError | AskError, address: str) -> str:
        """The address that this answer of `address` names; without a host it is another port of the same one."""
        return f"{error.host or address.rpartition(':')[0]}:{error.port}"

    async def connect(self, address: str) -> AbstractConnection:
        """A connection to a node, one too that has no slot yet and stands in no layout."""
        node = self._cluster.nodes_manager.get_node(node_name=address)
        if node is None:
            node = next(iter(self._cluster.get_nodes()), None)
        if node is None:
            raise Unavailable("cache", "the Redis cluster cannot be reached", retry_after=_REFRESH_SECONDS)
        host, _, port = address.rpartition(":")
        options = {**node.connection_kwargs, "host": host, "port": int(port), "socket_timeout": None}
        connection: AbstractConnection = node.connection_class(**options)
        await connection.connect()  # type: ignore[no-untyped-call]
        return connection

    # -- looking -------------------------------------------------------------------------------------------------------

    def refresh_soon(self) -> None:
        """Asks for the layout, once for all who want it."""
        if self._refreshing is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._asked = loop.create_future()
            self._refreshing = loop.create_task(self._look_again(self._asked))
            self._refreshing.add_done_callback(lambda _: setattr(self, "_refreshing", None))

    async def refresh(self) -> None:
        """Returns when a layout is known, which may be the one from before. Raises `Unavailable` where there is none."""
        self.refresh_soon()
        if self._asked is not None:
            await asyncio.wait([self._asked], timeout=self._timeout)
        if not self.known:
            raise Unavailable("cache", "the Redis cluster cannot be reached", retry_after=_REFRESH_SECONDS)

    async def _look_again(self, asked: asyncio.Future[None]) -> None:
        try:
            await self._look()
        finally:
            if not asked.done():
                asked.set_result(None)
        await asyncio.sleep(_REFRESH_SECONDS)

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                if self.known:
                    await self._cluster.nodes_manager.initialize()
                else:
                    await self._cluster.initialize()
        except _OUT_OF_REACH as error:
            log.warning("redis_layout_unknown", error=type(error).__name__)
            if self.known:
                await self._begin_again()
            return
        self._changed(self.primaries)

    async def _begin_again(self) -> None:
        """None of the nodes that were heard of tells anything: perhaps all have other addresses by now, and the URL leads there."""
        fresh = self._anew()
        try:
            async with asyncio.timeout(self._timeout):
                await fresh.initialize()
        except _OUT_OF_REACH:
            await fresh.aclose()
            return
        except BaseException:
            await fresh.aclose()
            raise
        before, self._cluster = self._cluster, fresh
        await before.aclose()
        self._changed(self.primaries)

    # -- beside the scripts --------------------------------------------------------------------------------------------

    async def clients(self) -> list[Redis]:
        """A client for each primary. The caller closes them."""
        if not self.known:
            await self.refresh()
        return [_client_of(node, self._timeout) for node in self.primaries.values()]

    def has(self, address: str) -> bool:
        """Whether a node at this address was one of the cluster's when it was last asked."""
        return self._cluster.nodes_manager.get_node(node_name=address) is not None

    async def any_client(self) -> Redis:
        """A client for a node that answers, each time perhaps another one. The caller closes it."""
        clients = await self.clients()
        random.shuffle(clients)
        chosen: Redis | None = None
        try:
            for client in clients:
                with suppress(*_OUT_OF_REACH):
                    async with asyncio.timeout(self._timeout):
                        await client.execute_command("PING")  # type: ignore[no-untyped-call]
                    chosen = client
                    return client
        finally:
            for client in clients:
                if client is not chosen:
                    await client.aclose()
        self.refresh_soon()
        raise Unavailable("cache", "the Redis cluster cannot be reached")


def _client_of(node: ClusterNode, timeout: float) -> Redis:
    names = ("host", "port", "username", "password")
    options = node.connection_kwargs
    kept = {name: options[name] for name in options if name in names or name.startswith("ssl_")}
    if issubclass(node.connection_class, SSLConnection):
        kept["ssl"] = True
    return Redis(**kept, socket_timeout=timeout, socket_connect_timeout=timeout, retry=ONCE, protocol=2)


def address_of(client: Redis) -> str:
    """The address of the node that a client of `Nodes.any_client` leads to."""
    options = client.connection_pool.connection_kwargs
    return f"{options['host']}:{options['port']}"
