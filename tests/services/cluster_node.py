"""One server of a Redis Cluster, and what it says about the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.services.certificates import Certificate
from tests.services.redis_server import RedisServer, Setting


@dataclass(frozen=True, slots=True)
class Peer:
    """A node as another one, or itself, sees it: a line of CLUSTER NODES."""

    id: str
    is_primary: bool
    primary_id: str | None
    failing: bool
    """Whether it is known, or by this node suspected, to be down."""
    slots: frozenset[int]

    @classmethod
    def read(cls, line: str) -> Peer:
        identity, _address, flags, primary, _ping, _pong, _epoch, _link, *ranges = line.split()
        marks = flags.split(",")
        slots: set[int] = set()
        for each in ranges:
            if not each.startswith("["):  # on its way from or to another node: whose it is stands elsewhere
                first, _, last = each.partition("-")
                slots.update(range(int(first), int(last or first) + 1))
        failing = not {"fail", "fail?", "noaddr", "handshake"}.isdisjoint(marks)
        return cls(identity, "master" in marks, None if primary == "-" else primary, failing, frozenset(slots))


class ClusterNode(RedisServer):
    """A redis-server in cluster mode; alone until `RedisCluster` makes it one of many."""

    def __init__(self, folder: Path, *, node_timeout: int, tls: Certificate | None = None, **config: Setting) -> None:
        """`node_timeout`: milliseconds after which the others hold a silent node for dead. With `tls` it can be reached so too, at
        `tls_port`."""
        super().__init__(folder, under=(), **config)
        self._node_timeout = node_timeout
        self._tls = tls
        self.tls_port = 0
        self.id: str
        """Its name within the cluster, from the first start on."""

    def _directives(self) -> dict[str, Setting]:
        directives = super()._directives()
        self.bus_port = self._reserve_port()
        if self._tls is not None:
            self.tls_port = self._reserve_port()
            # Only where the nodes speak TLS among themselves do they tell clients of TLS ports.
            directives |= {**self._tls.directives(self.tls_port), "tls-cluster": True}
        return {
            **directives,
            "cluster-enabled": True,
            "cluster-port": self.bus_port,
            "cluster-node-timeout": self._node_timeout,
            "cluster-replica-validity-factor": 0,  # a replica may take over however long it has heard nothing
            "cluster-allow-replica-migration": False,
            "repl-diskless-sync-delay": 0,
        }

    async def start(self, *, wait: bool = True) -> None:
        await super().start(wait=wait)
        if not hasattr(self, "id"):
            self.id = await self.cli("CLUSTER", "MYID")

    async def peers(self) -> dict[str, Peer]:
        """All nodes as this one sees them, itself too, by id."""
        told: str = await self.cli("CLUSTER", "NODES")
        return {peer.id: peer for peer in map(Peer.read, told.splitlines())}

    async def is_ready(self) -> bool:
        """Whether it serves: every slot has a primary that is up."""
        told: str = await self.cli("CLUSTER", "INFO")
        return "cluster_state:ok" in told
