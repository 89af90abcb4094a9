"""(b) Memory per idle, signed-in socket, beside the bare loop's; (g) the same with the shared cache."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench import served, services
from bench.cores import Cores
from bench.figures import ratios, spread
from bench.link import Link
from bench.missing import Missing
from bench.pair import signed_in
from bench.plan import KIB, Plan
from bench.redis_server import program
from bench.served import Served
from bench.service import Service
from bench.table import Row

_AT_ONCE = 50
_WARM = 20
"""Sockets that come and go first: what is made once is not the sockets'."""


async def opened(url: str, first: int, count: int) -> list[Link]:
    """So many signed-in sockets, each of its own user."""
    links: list[Link] = []
    for start in range(first, first + count, _AT_ONCE):
        names = range(start, min(start + _AT_ONCE, first + count))
        links += await asyncio.gather(*(signed_in(url, f"idle-{name}") for name in names))
    return links


async def _per_socket(served: Served, count: int, settle: float) -> float:
    for link in await opened(served.url, count, _WARM):
        await link.close()
    await asyncio.sleep(settle)
    before = served.memory()
    links = await opened(served.url, 0, count)
    await asyncio.sleep(settle)
    after = served.memory()
    await asyncio.gather(*(link.close() for link in links))
    return (after - before) / count


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (b)."""

    def alone(server: Callable[[Path, int | None], Served], home: Path) -> AbstractContextManager[Served]:
        return server(home, cores.server)

    return await _rows("b", plan, folder, partial(alone, served.ours), partial(alone, served.bare))


async def measure_shared(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (g)."""
    try:
        program()
    except Missing as missing:
        return [Row.left_out("g", "memory per idle socket with Redis", missing)]
    opener = partial(services.ours, cores=cores)
    return await _rows("g", plan, folder, opener, partial(services.bare_redis, cores=cores))


Opener = Callable[[Path], AbstractContextManager[Served | Service]]


async def _rows(part: str, plan: Plan, folder: Path, ours: Opener, bare: Opener) -> list[Row]:
    found: dict[str, list[float]] = {"ours": [], "bare": []}
    openers = {"ours": ours, "bare": bare}
    for number in range(plan.socket_rounds):
        for kind in openers if number % 2 == 0 else reversed(openers):
            with openers[kind](folder / f"{part}-{number}-{kind}") as running:
                server = running.servers[0] if isinstance(running, Service) else running
                found[kind].append(await _per_socket(server, plan.sockets, plan.settle))
    goal = plan.goals.idle_bytes
    shared = " with Redis" if part == "g" else ""
    return [
        Row(
            part,
            f"memory per idle socket{shared} at {plan.sockets} sockets, each its own user, KiB",
            f"{spread([each / KIB for each in found['ours']]):.1f}",
            f"{spread([each / KIB for each in found['bare']]):.1f}",
            f"{ratios(found['ours'], found['bare']):.2f}",
            f"≤ {goal // KIB} KiB",
            spread(found["ours"]).middle <= goal,
        )
    ]
