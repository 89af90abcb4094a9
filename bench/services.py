"""The services that are measured: each a context manager that starts its servers and, if it has one, its Redis."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import served
from bench.cores import Cores
from bench.hocuspocus.installing import Hocuspocus
from bench.redis_server import RedisServer
from bench.served import Served
from bench.service import Service


def sidecar(
    folder: Path, redis: RedisServer, core: int | None, *, port: int = 0, profile: Path | None = None, **store: Any
) -> Served:
    """One process of the sidecar over that Redis; without `store` its keys and its database are in `folder / "data"`."""
    cache = {"use": "redis", "options": {"url": redis.url}}
    server = {"port": port, "drain": "0ms"}
    return served.ours(folder, core, profile=profile, cache=cache, server=server, **store)


@contextmanager
def ours(folder: Path, cores: Cores, processes: int = 1) -> Iterator[Service]:
    """So many processes of the sidecar over one Redis; several have one key file and one database, as those of one host."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(folder / "redis", cores.redis))
        if processes == 1:
            running = [stack.enter_context(sidecar(folder, redis, cores.server))]
        else:
            store = _shared_store(folder)
            seats = cores.servers(processes)
            running = [
                stack.enter_context(sidecar(folder / str(number), redis, core, **store))
                for number, core in enumerate(seats)
            ]
        yield Service(running, redis, cores.shared(processes))


def _shared_store(folder: Path) -> dict[str, Any]:
    keys = {"master_key": secrets.token_hex(32), "path": str(folder / "keys")}
    return {
        "encryption": {"use": "local", "options": keys},
        "persistence": {"use": "sqlite", "options": {"path": str(folder / "store.sqlite")}},
    }


@contextmanager
def bare_redis(folder: Path, cores: Cores) -> Iterator[Service]:
    """The bare loop over a Redis."""
    with (
        RedisServer(folder / "redis", cores.redis) as redis,
        served.bare_redis(folder, cores.server, redis.url) as running,
    ):
        yield Service([running], redis, cores.shared(1))


@contextmanager
def hocuspocus(folder: Path, cores: Cores, installed: Hocuspocus) -> Iterator[Service]:
    """Hocuspocus alone."""
    with served.hocuspocus(folder, cores.server, installed) as running:
        yield Service([running], None, cores.shared(1))
