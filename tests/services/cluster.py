"""A real Redis Cluster of the tests' own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

from redis.asyncio.cluster import RedisCluster as ClusterClient
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tests.services.certificates import Certificate
from tests.services.cluster_node import ClusterNode, Peer
from tests.services.redis_proxy import RedisProxy
from tests.services.redis_server import Setting
from tests.services.resharding import Resharding
from tests.services.waiting import until


class RedisCluster:
    """`async with RedisCluster(folder, replicas=1) as cluster`: three primaries with so many replicas each, ready to serve.

    Each node is a `RedisServer`, to be killed, paused and started again as such. With `proxied` each stands behind a
    `RedisProxy` whose address the cluster tells its clients, so that no client goes round it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        primaries: int = 3,
        replicas: int = 0,
        proxied: bool = False,
        node_timeout: int = 2_000,
        tls: Certificate | None = None,
        **config: Setting,
    ) -> None:
        """`node_timeout`: milliseconds of silence after which a node is held for dead and a replica takes over.
        `tls`: what each can also be reached with, at its `tls_port`."""
        self._folder = folder
        self._primaries, self._replicas = primaries, replicas
        self._proxied = proxied
        self._node_timeout = node_timeout
        self._tls = tls
        self._config = config
        self._opened = AsyncExitStack()
        self.nodes: list[ClusterNode] = []
        """First the primaries, then the replicas in the same order; later as failovers have it."""
        self._last_slots: dict[str, frozenset[int]] = {}
        """Those that each node had when it last had any."""
        self._proxies: dict[ClusterNode, RedisProxy] = {}

    # -- its life ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            for number in range(self._primaries * (1 + self._replicas)):
                self.nodes.append(await self._open(opened, self._folder / f"node-{number}"))
            await self._join()
            await self._share_out()
            await self.settled()
            self._opened = opened.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def _open(self, opened: AsyncExitStack, folder: Path) -> ClusterNode:
        config, proxy = self._config, None
        if self._proxied:
            proxy = await opened.enter_async_context(RedisProxy(("127.0.0.1", 0)))
            config = {**config, "cluster_announce_port": proxy.port}
        made = ClusterNode(folder, node_timeout=self._node_timeout, tls=self._tls, **config)
        node = await opened.enter_async_context(made)
        if proxy is not None:
            proxy.target = node.address
            self._proxies[node] = proxy
        return node

    async def _join(self) -> None:
        """Everyone meets everyone, which is faster than waiting for the gossip."""
        for number, node in enumerate(self.nodes):
            await node.cli("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for other in self.nodes[:number]:
                await node.cli("CLUSTER", "MEET", other.host, other.port, other.bus_port)
        await until(self._all_know_all, "the nodes did not find each other")

    async def _all_know_all(self) -> bool:
        for node in self.nodes:
            peers = (await node.peers()).values()
            if len(peers) < len(self.nodes) or any(peer.failing for peer in peers):
                return False
        return True

    async def _share_out(self) -> None:
        primaries = self.nodes[: self._primaries]
        for number, node in enumerate(primaries):
            first, last = (REDIS_CLUSTER_HASH_SLOTS * each // self._primaries for each in (number, number + 1))
            await node.cli("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        for number, node in enumerate(self.nodes[self._primaries :]):
            await node.cli("CLUSTER", "REPLICATE", primaries[number % self._primaries].id)

    async def settled(self, patience: float = 60) -> None:
        """Waits until all that run see the same primaries with the same slots, all are served, and replicas follow."""
        await until(self._is_settled, "the cluster did not settle", patience)

    async def _is_settled(self) -> bool:
        running = self._answering()
        views = [await node.peers() for node in running]
        if len({frozenset((peer.id, peer.primary_id, peer.slots) for peer in view.values()) for view in views}) != 1:
            return False
        for node in running:
            if not await node.is_ready() or any(views[0][each.id].failing for each in running):
                return False
            if (await node.info("replication")).get("master_link_status", "up") != "up":
                return False
        for peer in views[0].values():
            if peer.slots:
                self._last_slots[peer.id] = peer.slots
        return True

    def _answering(self) -> list[ClusterNode]:
        return [node for node in self.nodes if node.answering]

    async def clean(self) -> None:
        """Empties it: keys, scripts, statistics."""
        for node in await self.primaries():
            await node.clean()

    # -- talking to it -------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Of one node, from which a client learns of the others."""
        return self.proxy_of(self.nodes[0]).url if self._proxied else self.nodes[0].url

    def client(self, **options: Any) -> ClusterClient:
        """A client for the running loop: `async with cluster.client() as redis`."""
        return ClusterClient.from_url(self.url, **options)

    def proxy_of(self, node: ClusterNode) -> RedisProxy:
        """The proxy that clients, replicas too, reach this node through; only with `proxied`."""
        return self._proxies[node]

    # -- who has what --------------------------------------------------------------------------------------------------

    @staticmethod
    def slot_of(key: str | bytes) -> int:
        """The hash slot of a key: of its `{tag}` if it has one."""
        return key_slot(key.encode() if isinstance(key, str) else key)

    async def primaries(self) -> list[ClusterNode]:
        """The nodes that have slots, as those that run see it."""
        peers = await self._view()
        return [node for node in self.nodes if peers[node.id].slots]

    async def slots(self) -> dict[ClusterNode, frozenset[int]]:
        """Who has which slots, as those that run see it."""
        peers = await self._view()
        return {node: peers[node.id].slots for node in self.nodes}

    async def replicas_of(self, primary: ClusterNode) -> list[ClusterNode]:
        peers = await self._view()
        return [node for node in self.nodes if peers[node.id].primary_id == primary.id]

    async def owner(self, key: str | bytes | int) -> ClusterNode:
        """The primary of a key, or of a slot."""
        slot = key if isinstance(key, int) else self.slot_of(key)
        peers = await self._view()
        return next(node for node in self.nodes if slot in peers[node.id].slots)

    async def _view(self) -> dict[str, Peer]:
        return await self._answering()[0].peers()

    # -- failover ------------------------------------------------------------------------------------------------------

    async def failover(self, primary: ClusterNode) -> ClusterNode:
        """The orderly one: a replica of a primary that is up takes its place with nothing lost. Returns the new primary."""
        replica = (await self.replicas_of(primary))[0]
        await replica.cli("CLUSTER", "FAILOVER")
        return await self.taken_over(primary)

    async def taken_over(self, primary: ClusterNode, patience: float = 60) -> ClusterNode:
        """Waits until a replica has the place that this primary had, killed, paused or not, and all is served. Returns it."""
        slot = min(self._last_slots[primary.id])

        async def done() -> bool:
            return await self.owner(slot) is not primary and await self._is_settled()

        await until(done, "no replica took over", patience)
        return await self.owner(slot)

    async def kill(self, primary: ClusterNode) -> None:
        """kill -9 at a moment when its replicas have everything that it has answered for; what else was under way is never answered."""
        await primary.cli("CLIENT", "PAUSE", 60_000, "WRITE")
        await self.caught_up(primary)
        primary.kill()

    async def lag(self, primary: ClusterNode) -> int:
        """How many bytes of its changes the replica that has the least does not have yet."""
        ahead = int((await primary.info("replication"))["master_repl_offset"])
        behind = [await replica.info("replication") for replica in await self.replicas_of(primary)]
        return max(ahead - int(each["slave_repl_offset"]) for each in behind)

    async def caught_up(self, primary: ClusterNode) -> None:
        """Waits until its replicas have all that it has now."""

        async def done() -> bool:
            return await self.lag(primary) <= 0

        await until(done, "the replica did not catch up")

    def pause_replication(self, primary: ClusterNode) -> None:
        """From here on its replicas learn of nothing, and neither side is told; only with `proxied`."""
        self.proxy_of(primary).starve_replicas()

    def resume_replication(self, primary: ClusterNode) -> None:
        """They learn of all that they missed, where it still lives."""
        self.proxy_of(primary).feed_replicas()

    # -- nodes that come and go ----------------------------------------------------------------------------------------

    async def grow(self) -> ClusterNode:
        """Another node, which has no slots yet."""
        node = await self._open(self._opened, self._folder / f"node-{len(self.nodes)}")
        await node.cli("CLUSTER", "MEET", self.nodes[0].host, self.nodes[0].port, self.nodes[0].bus_port)
        self.nodes.append(node)
        await until(self._all_know_all, "the nodes did not find each other")
        await self.settled()
        return node

    async def dismiss(self, node: ClusterNode, *, kill: bool = True) -> None:
        """A node without slots leaves for good; only the last that came. Without `kill` it lives on, alone."""
        assert node is self.nodes[-1]
        self.nodes.remove(node)
        if kill:
            node.kill()
        for other in self.nodes:
            await other.cli("CLUSTER", "FORGET", node.id)
        if not kill:
            await node.cli("CLUSTER", "RESET")
        await self.settled()

    # -- resharding ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def resharding(self, slot: int, to: ClusterNode) -> AsyncIterator[Resharding]:
        """Within it the slot is on its way: its owner answers ASK for keys that it no longer has. Afterwards it has moved."""
        move = Resharding(slot, await self.owner(slot), to)
        await move.begin()
        yield move
        await move.finish(await self.primaries())
        await self.settled()

    async def move_slot(self, slot: int, to: ClusterNode) -> None:
        """Moves it with its keys: who asks the former owner is answered MOVED."""
        async with self.resharding(slot, to):
            pass
