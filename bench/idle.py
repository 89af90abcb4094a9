"""(b) Memory per idle, signed-in socket, beside the bare loop's."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.figures import ratios, spread
from bench.link import Link
from bench.pair import signed_in
from bench.plan import KIB, Plan
from bench.served import Served
from bench.table import Row
from bench.throughput import KINDS

_AT_ONCE = 50
_WARM = 20
"""Sockets that come and go first: what is made once is not the sockets'."""


async def _open(url: str, first: int, count: int) -> list[Link]:
    links: list[Link] = []
    for start in range(first, first + count, _AT_ONCE):
        names = range(start, min(start + _AT_ONCE, first + count))
        links += await asyncio.gather(*(signed_in(url, f"idle-{name}") for name in names))
    return links


async def _per_socket(served: Served, count: int, settle: float) -> float:
    for link in await _open(served.url, count, _WARM):
        await link.close()
    await asyncio.sleep(settle)
    before = served.memory()
    links = await _open(served.url, 0, count)
    await asyncio.sleep(settle)
    after = served.memory()
    await asyncio.gather(*(link.close() for link in links))
    return (after - before) / count


async def measure(plan: Plan, folder: Path, core: int | None) -> list[Row]:
    """The rows of (b)."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(plan.socket_rounds):
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            with Served(kind, folder / f"b-{number}-{kind}", core=core) as served:
                found[kind].append(await _per_socket(served, plan.sockets, plan.settle))
    ours, bare = found["ours"], found["bare"]
    goal = plan.goals.idle_bytes
    return [
        Row(
            "b",
            f"memory per idle socket at {plan.sockets} sockets, each its own user, KiB",
            f"{spread([each / KIB for each in ours]):.1f}",
            f"{spread([each / KIB for each in bare]):.1f}",
            f"{ratios(ours, bare):.2f}",
            f"≤ {goal // KIB} KiB",
            spread(ours).middle <= goal,
        )
    ]
