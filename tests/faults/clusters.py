"""Two sidecars on a real Redis Cluster, who lies where in it, and whether they go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from plugins.cache.redis_layout import Keys
from sidecar.ids import hash_user
from sidecar.server.running import Server
from tests.device import Device, SocketClosed, doc
from tests.faults.careful import Crowd
from tests.faults.world import sidecar, sound
from tests.integration.world import until
from tests.services.cluster import RedisCluster
from tests.services.cluster_node import ClusterNode

SHARDS = 16
"""Enough that each of three nodes has some, and few, so that a start is quick."""
KEYS = Keys("sidecar", SHARDS)
"""As the sidecars have them."""
PATIENCE = 30.0
"""Seconds in which everybody is to be served again of their own accord, once the cluster is whole. It takes one to ten of them on
a machine that has nothing else to do."""


@asynccontextmanager
async def sidecars(
    folder: Path, cluster: RedisCluster, *, timeout: str = "1s", **sections: Any
) -> AsyncIterator[tuple[Server, Server]]:
    """Two of them, which share keys and store too."""
    options = {"cluster": True, "shards": SHARDS, "timeout": timeout}
    async with (
        sidecar(folder, cluster.url, options=options, **sections) as one,
        sidecar(folder, cluster.url, name="other", options=options, **sections) as other,
    ):
        yield one, other


def slot_of(person: str) -> int:
    """Where all of a person's keys lie."""
    return RedisCluster.slot_of(KEYS.key(KEYS.shard_of(hash_user(person)), "person"))


async def someone_on(cluster: RedisCluster, node: ClusterNode, *, but: tuple[str, ...] = ()) -> str:
    """Somebody whose keys this node has."""
    slots = (await cluster.slots())[node]
    return next(name for number in count() if (name := f"p{number}") not in but and slot_of(name) in slots)


async def neighbour_of(person: str) -> str:
    """Somebody else whose keys lie in the same slot."""
    return next(name for number in count() if (name := f"n{number}") != person and slot_of(name) == slot_of(person))


async def serves(server: Server, person: str) -> bool:
    """Whether it lets this person in and accepts a change of theirs; if not, it says that it is unavailable."""
    device = Device(server.url, person)
    try:
        await device.connect()
        answer = await device.sign_in()
        if answer["type"] == "ready":
            edit = {"tempChatId": "probe", "content": doc("x"), "basedOnVersion": 0}
            answer = await device.ask("draft_update", edit)
    except SocketClosed:
        return False
    finally:
        await device.close()
    assert answer["type"] != "error" or answer["payload"]["code"] == "unavailable", answer
    return bool(answer["type"] != "error")


async def go_on(servers: tuple[Server, ...], *people: str) -> None:
    """Returns when these people are served by each of them, of their own accord; fails if that takes long."""
    for server in servers:
        for person in people:
            await until(lambda server=server, person=person: serves(server, person), PATIENCE)


@asynccontextmanager
async def at_work(crowd: Crowd, *, messages: bool = True) -> AsyncIterator[None]:
    """While it is entered everybody goes on, however long that is."""
    over = asyncio.Event()

    async def work() -> None:
        while not over.is_set():
            await crowd.live(0.2, messages=messages)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        over.set()
        await working


async def all_sound(cluster: RedisCluster) -> None:
    """The keys of every shard fit together."""
    for node in await cluster.primaries():
        await sound(node)


async def refusals(cluster: RedisCluster) -> dict[str, int]:
    """How often nodes that run answered with an error, by its first word."""
    found: dict[str, int] = {}
    for node in cluster.nodes:
        if node.answering:
            for name, value in (await node.info("errorstats")).items():
                word = name.removeprefix("errorstat_")
                found[word] = found.get(word, 0) + int(value["count"])
    return found
