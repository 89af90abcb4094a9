"""The way to Redis: one server, or a cluster whose shards are spread over several."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, TryAgainError

from plugins.cache.redis_calls import NIL, Call, Redirected
from plugins.cache.redis_lane import Health, Lane
from plugins.cache.redis_layout import script
from plugins.cache.redis_nodes import ONCE, Nodes, address_of
from plugins.cache.redis_subscription import Subscription
from plugins.cache.redis_wire import Wire
from sidecar import Unavailable

LaneName = Literal["changes", "rest"]
"""Changes do not wait behind the reading of a thousand chats."""
_AT_ONCE = 3
"""Redirections of a call that are followed without a pause."""
_TRY_AGAIN_SECONDS = 0.02


class Link:
    """Runs scripts. An async context manager; belongs to one event loop. Errors: `Unavailable`."""

    def __init__(self, url: str, *, cluster: bool, timeout: float, pool: int) -> None:
        """`timeout` in seconds for a call, its wait included; `pool` bounds the connections to one server: one for changes, the others
        for everything else."""
        self._url = url
        self._timeout = timeout
        self._pool_size = pool
        self._nodes: Nodes | None = None
        self._is_cluster = cluster
        self._pool: ConnectionPool | None = None
        self._lanes: dict[tuple[str, LaneName], list[Lane]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = True
        self.barred: str | None = None
        """Why no call is made, though Redis answers: it was not looked at yet, or is none that can be used."""

    async def __aenter__(self) -> Self:
        # RESP2: nothing comes on a lane's connection that was not asked for.
        options: dict[str, Any] = {"socket_connect_timeout": self._timeout, "protocol": 2}
        if not self._url.startswith("unix"):
            options["socket_keepalive"] = True
        if self._is_cluster:
            self._nodes = Nodes(self._url, self._timeout, self._leave_the_others, **options)
        else:
            # A lane bounds its pipelines itself.
            self._pool = ConnectionPool.from_url(self._url, socket_timeout=None, **options)
        self._closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        if self._nodes is not None:
            await self._nodes.close()
        if self._closing:
            await asyncio.wait(self._closing)
        for lanes in self._lanes.values():
            for lane in lanes:
                await lane.close()
        self._lanes.clear()
        if self._pool is not None:
            await self._pool.disconnect(inuse_connections=True)

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
        if self._nodes is None:
            answer = await self._lane("server", lane)(call)
            if isinstance(answer, Redirected):
                raise Unavailable(
                    "cache", "this Redis is a node of a cluster; set cache.options.cluster", retry_after=1.0
                )
            return None if answer is NIL else answer
        return await self._in_cluster(self._nodes, call, lane)

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
        if self._nodes is not None:
            connection = await self._nodes.connect(address)
        elif self._pool is None:
            raise Unavailable("cache", "it is closed")
        else:
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            if not connection.is_connected:
                await connection.connect()  # type: ignore[no-untyped-call]
            return Wire(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    # -- a cluster -----------------------------------------------------------------------------------------------------

    async def _in_cluster(self, nodes: Nodes, call: Call, lane: LaneName) -> Any:
        """Follows the slot to wherever it is by now, for as long as the call may take."""
        slot, loop = key_slot(call.keys[0]), asyncio.get_running_loop()
        address, turns = await nodes.address_of(slot), 0
        while True:
            try:
                answer = await self._lane(address, lane)(call)
            except Unavailable:
                nodes.refresh_soon()  # a replica may have taken its place
                raise
            if not isinstance(answer, Redirected):
                return None if answer is NIL else answer
            error, turns = answer.error, turns + 1
            call.asking = isinstance(error, AskError)
            if isinstance(error, TryAgainError):  # the keys are on both sides of a slot that is moving
                pause, address = _TRY_AGAIN_SECONDS, await nodes.address_of(slot)
            else:
                # Two nodes that send us to each other do not agree yet.
                pause, address = (0.0 if turns < _AT_ONCE else _TRY_AGAIN_SECONDS), nodes.told_by(error, address)
                if isinstance(error, MovedError):
                    nodes.refresh_soon()
            if loop.time() + pause >= call.deadline:
                raise Unavailable("cache", "the Redis cluster's slots are moving", retry_after=0.2)
            if pause:
                await asyncio.sleep(pause)

    def _leave_the_others(self, primaries: Collection[str]) -> None:
        """Lanes to servers that have no slots any more are closed, unless somebody still waits for an answer of theirs."""
        for key in [key for key in self._lanes if key[0] not in primaries]:
            if not any(lane.busy or lane.waiting for lane in self._lanes[key]):
                for lane in self._lanes.pop(key):
                    task = asyncio.get_running_loop().create_task(lane.close())
                    self._closing.add(task)
                    task.add_done_callback(self._closing.discard)

    # -- beside the scripts --------------------------------------------------------------------------------------------

    @property
    def is_cluster(self) -> bool:
        """Whether the servers are taken for a cluster."""
        return self._is_cluster

    def door(self) -> Redis:
        """A client for the server that the URL names, whether or not it is one of many. The caller closes it."""
        timeout = self._timeout
        return Redis.from_url(self._url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=ONCE, protocol=2)

    async def clients(self) -> Sequence[Redis]:
        """A client for each primary, for what is asked at the start and by `doctor`. The caller closes them."""
        return [self.door()] if self._nodes is None else await self._nodes.clients()

    async def subscription(self, told: Callable[[bytes], None]) -> Subscription:
        """A connection to subscribe on; `told` gets the messages. In a cluster any node will do: what is published reaches all.

        Raises `Unavailable`, and what redis-py raises.
        """
        client = self.door() if self._nodes is None else await self._nodes.any_client()
        try:
            connection: AbstractConnection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            await connection.connect()  # type: ignore[no-untyped-call]
            return Subscription(connection, told, "" if self._nodes is None else address_of(client))
        finally:
            await client.aclose()

    def may_listen(self, subscription: Subscription) -> bool:
        """Whether what is published still reaches it: not where its node has left the cluster and lives on."""
        return self._nodes is None or self._nodes.has(subscription.address)

    @property
    def health(self) -> Mapping[str, Health]:
        """By server and lane."""
        return {
            f"{address} {name} {number}": lane.health
            for (address, name), lanes in self._lanes.items()
            for number, lane in enumerate(lanes)
        }

    @property
    def trouble(self) -> str:
        """What is wrong with a server, as whoever asked it last was told; empty while all is well."""
        last: dict[str, Health] = {}
        primaries = self._nodes.primaries if self._nodes is not None else None
        for (address, _), lanes in self._lanes.items():
            if primaries is not None and address not in primaries:
                continue  # it has nothing of ours any more
            for lane in lanes:
                if address not in last or last[address].at < lane.health.at:
                    last[address] = lane.health
        return next((health.trouble for health in last.values() if health.trouble), "")
