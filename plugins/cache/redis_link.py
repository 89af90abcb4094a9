"""The way to Redis: one server, or a cluster whose shards are spread over several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Self

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, RedisError

from plugins.cache.redis_calls import NIL, Call, Redirected
from plugins.cache.redis_lane import Health, Lane
from plugins.cache.redis_layout import script
from plugins.cache.redis_refusals import reason_of
from plugins.cache.redis_subscription import Subscription
from plugins.cache.redis_tasks import end
from plugins.cache.redis_wire import Wire
from sidecar import Unavailable

LaneName = Literal["changes", "rest"]
"""Changes do not wait behind the reading of a thousand chats."""
_REDIRECTIONS = 5
_REFRESH_SECONDS = 0.25
"""Between two looks at the cluster's layout, at least."""

log = structlog.get_logger("plugins.cache.redis")


class Link:
    """Runs scripts. An async context manager; belongs to one event loop. Errors: `Unavailable`."""

    def __init__(self, url: str, *, cluster: bool, timeout: float, pool: int) -> None:
        """`timeout` in seconds for a call, its wait included; `pool` bounds the connections to one server: one for changes, the others
        for everything else."""
        self._url = url
        self._timeout = timeout
        self._pool_size = pool
        self._cluster: RedisCluster | None = None
        self._is_cluster = cluster
        self._pool: ConnectionPool | None = None
        self._lanes: dict[tuple[str, LaneName], list[Lane]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = True
        self.barred: str | None = None
        """Why no call is made, though Redis answers: it was not looked at yet, or is none that can be used."""

    async def __aenter__(self) -> Self:
        # RESP2: nothing comes on a lane's connection that was not asked for.
        options: dict[str, Any] = {"socket_connect_timeout": self._timeout, "protocol": 2}
        if not self._url.startswith("unix"):
            options["socket_keepalive"] = True
        if self._is_cluster:
            self._cluster = RedisCluster.from_url(self._url, socket_timeout=self._timeout, **options)
        else:
            # A lane bounds its pipelines itself.
            self._pool = ConnectionPool.from_url(self._url, socket_timeout=None, **options)
        self._closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._refreshing is not None:
            await end(self._refreshing)
        for lanes in self._lanes.values():
            for lane in lanes:
                await lane.close()
        self._lanes.clear()
        if self._pool is not None:
            await self._pool.disconnect(inuse_connections=True)
        if self._cluster is not None:
            await self._cluster.aclose()

    async def run(
        self,
        name: str,
        keys: tuple[bytes, ...],
        *arguments: bytes | int,
        lane: LaneName = "rest",
        anyway: bool = False,
    ) -> Any:
        """The answer of a script; its keys lie in one slot. None is nil. `anyway`: though the link is barred."""
        if self._closed:
            raise Unavailable("cache", "it is closed")
        if self.barred is not None and not anyway:
            raise Unavailable("cache", self.barred, retry_after=1.0)
        call = Call(script(name), keys, arguments, asyncio.get_running_loop().time() + self._timeout)
        if not self._is_cluster:
            answer = await self._lane("server", lane)(call)
            return None if answer is NIL else answer
        return await self._in_cluster(call, lane)

    async def run_all(self, calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Several scripts at once, each as the arguments of `run`. Raises the first error."""
        return list(await asyncio.gather(*(self.run(*each) for each in calls)))

    def _lane(self, address: str, name: LaneName) -> Lane:
        lanes = self._lanes.get((address, name))
        if lanes is None:
            lanes = self._lanes[address, name] = [self._new_lane(address)]
        if name == "changes" or not lanes[0].busy:
            return lanes[0]
        # Calls of one moment leave together; another connection only helps while a pipeline is under way.
        for lane in lanes:
            if not lane.busy:
                return lane
        if len(lanes) < self._pool_size - 1:
            lanes.append(self._new_lane(address))
            return lanes[-1]
        return min(lanes, key=lambda lane: lane.waiting)

    def _new_lane(self, address: str) -> Lane:
        return Lane(lambda: self._connect(address), self._timeout, apart=self._is_cluster)

    async def _connect(self, address: str) -> Wire:
        if self._cluster is None:
            if self._pool is None:
                raise Unavailable("cache", "it is closed")
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        else:
            node = self._cluster.nodes_manager.get_node(node_name=address)
            if node is None:
                await self._refresh()
                raise Unavailable("cache", f"{address} has left the Redis cluster", retry_after=_REFRESH_SECONDS)
            connection = node.connection_class(**{**node.connection_kwargs, "socket_timeout": None})
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            return Wire(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    # -- a cluster -----------------------------------------------------------------------------------------------------

    async def _in_cluster(self, call: Call, lane: LaneName) -> Any:
        slot = key_slot(call.keys[0])
        address: str | None = None
        for _ in range(_REDIRECTIONS):
            if address is None:
                address = await self._address(slot)
            try:
                answer = await self._lane(address, lane)(call)
            except Unavailable:
                self._refresh_soon()  # a replica may have taken its place
                raise
            if not isinstance(answer, Redirected):
                return None if answer is NIL else answer
            error = answer.error
            call.asking = isinstance(error, AskError)
            if isinstance(error, AskError):
                address = f"{error.host}:{error.port}"
            elif isinstance(error, MovedError):
                await self._refresh()
                address = f"{error.host}:{error.port}"
            else:
                await asyncio.sleep(0.02)  # TRYAGAIN: the keys are on both sides of a slot that is moving
            if address is not None and self._node_gone(address):
                await self._refresh()
                address = None
        raise Unavailable("cache", "the Redis cluster's slots are moving", retry_after=0.5)

    def _node_gone(self, address: str) -> bool:
        return self._cluster is None or self._cluster.nodes_manager.get_node(node_name=address) is None

    async def _address(self, slot: int) -> str:
        if self._cluster is None:
            raise AssertionError("only a cluster has addresses")
        if not self._cluster.nodes_manager.slots_cache:
            await self._refresh()
        try:
            return str(self._cluster.nodes_manager.get_node_from_slot(slot).name)
        except RedisError as error:
            self._refresh_soon()
            raise Unavailable("cache", reason_of(error), retry_after=_REFRESH_SECONDS) from None

    def _refresh_soon(self) -> None:
        if self._refreshing is None and not self._closed:
            self._refreshing = asyncio.get_running_loop().create_task(self._look_again())
            self._refreshing.add_done_callback(lambda _: setattr(self, "_refreshing", None))

    async def _look_again(self) -> None:
        with suppress(Unavailable):
            await self._ask_for_layout()
        await asyncio.sleep(_REFRESH_SECONDS)

    async def _refresh(self) -> None:
        """Asks for the cluster's layout, once for all who want it."""
        self._refresh_soon()
        task = self._refreshing
        if task is not None:
            await asyncio.wait([task], timeout=self._timeout)
        if self._cluster is not None and not self._cluster.nodes_manager.slots_cache:
            raise Unavailable("cache", "the Redis cluster cannot be reached", retry_after=_REFRESH_SECONDS)

    async def _ask_for_layout(self) -> None:
        if self._cluster is None:
            return
        try:
            async with asyncio.timeout(self._timeout):
                if self._cluster.nodes_manager.slots_cache:
                    await self._cluster.nodes_manager.initialize()
                else:
                    await self._cluster.initialize()
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("redis_layout_unknown", error=type(error).__name__)
            raise Unavailable("cache", reason_of(error), retry_after=_REFRESH_SECONDS) from None

    # -- beside the scripts --------------------------------------------------------------------------------------------

    async def clients(self) -> Sequence[Redis]:
        """A client for each primary, for what is asked at the start and by `doctor`. The caller closes them."""
        if self._cluster is None:
            options: dict[str, Any] = {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout}
            return [Redis.from_url(self._url, protocol=2, **options)]
        if not self._cluster.nodes_manager.slots_cache:
            await self._refresh()
        return [_client_of(node.connection_kwargs, self._timeout) for node in self._cluster.get_primaries()]

    async def subscription(self, told: Callable[[bytes], None]) -> Subscription:
        """A connection to subscribe on; `told` gets the messages. In a cluster any node will do: what is published reaches all.

        Raises `Unavailable`, and what redis-py raises.
        """
        client = (await self.clients())[0] if self._cluster is None else await self._any_node()
        try:
            connection: AbstractConnection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            await connection.connect()  # type: ignore[no-untyped-call]
            return Subscription(connection, told)
        finally:
            await client.aclose()

    async def _any_node(self) -> Redis:
        clients = await self.clients()
        chosen: Redis | None = None
        for client in clients:
            try:
                if chosen is None:
                    await client.execute_command("PING")  # type: ignore[no-untyped-call]
                    chosen = client
                    continue
            except (RedisError, OSError):
                pass
            await client.aclose()
        if chosen is None:
            self._refresh_soon()
            raise Unavailable("cache", "the Redis cluster cannot be reached")
        return chosen

    @property
    def health(self) -> Mapping[str, Health]:
        """By server and lane."""
        return {
            f"{address} {name} {number}": lane.health
            for (address, name), lanes in self._lanes.items()
            for number, lane in enumerate(lanes)
        }


def _client_of(options: Mapping[str, Any], timeout: float) -> Redis:
    names = ("host", "port", "username", "password")
    kept = {name: options[name] for name in names if options.get(name) is not None}
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Redis(
        **kept,
        **({"ssl": True, **tls} if tls else {}),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        protocol=2,
    )
