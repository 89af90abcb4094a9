"""(a) Drafts per second, and how long until the second device has them, beside the bare loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.drafts import Drafts
from bench.figures import percentile, ratios, spread
from bench.pair import Chat, Pair
from bench.plan import Plan
from bench.served import Kind, Served
from bench.table import Row

KINDS: tuple[Kind, Kind] = ("ours", "bare")


@dataclass(slots=True)
class Rounds:
    """One server's figures at one number of people, a value for each round."""

    rate: list[float] = field(default_factory=list)
    """Drafts per second."""
    p50: list[float] = field(default_factory=list)
    """Seconds."""
    p99: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    """Share of one core that the server used."""
    generator: list[float] = field(default_factory=list)
    """Share of one core that the load generator used."""
    cost: list[float] = field(default_factory=list)
    """Seconds of the server's CPU time per draft."""


class Crowd:
    """So many people with two devices and one chat each, on one server."""

    def __init__(self, served: Served, pairs: Sequence[Pair], chats: Sequence[Chat]) -> None:
        self._served = served
        self._pairs = pairs
        self._chats = chats

    @classmethod
    async def gather(cls, stack: AsyncExitStack, served: Served, people: int, drafts: Drafts) -> Crowd:
        """Everybody signed in, each chat begun; left with the stack."""
        pairs, chats = [], []
        for number in range(people):
            pair = await Pair.open(served.url, f"crowd-{people}-{number}", drafts)
            stack.push_async_callback(pair.close)
            chat = Chat(f"bench-{people}-{number}")
            await pair.begin(chat)
            pairs.append(pair)
            chats.append(chat)
        return cls(served, pairs, chats)

    async def edit(self, seconds: float, rounds: Rounds | None) -> None:
        """Everybody edits as fast as they can for so long. Without `rounds` it is to warm up."""
        used, own, began = self._served.cpu(), time.process_time(), time.perf_counter()
        await asyncio.gather(*(p.edit([c], seconds) for p, c in zip(self._pairs, self._chats, strict=True)))
        wall, own = time.perf_counter() - began, time.process_time() - own
        used = self._served.cpu() - used
        if rounds is None:
            return
        latencies = [each for pair in self._pairs for each in pair.latencies]
        rounds.rate.append(len(latencies) / wall)
        rounds.p50.append(percentile(latencies, 0.5))
        rounds.p99.append(percentile(latencies, 0.99))
        rounds.server.append(used / wall)
        rounds.generator.append(own / wall)
        rounds.cost.append(used / len(latencies))


async def measure(plan: Plan, folder: Path, core: int | None) -> list[Row]:
    """The rows of (a)."""
    drafts = Drafts()
    rows: list[Row] = []
    with Served("ours", folder / "a-ours", core=core) as ours, Served("bare", folder / "a-bare", core=core) as bare:
        for people in plan.people:
            found = {kind: Rounds() for kind in KINDS}
            async with AsyncExitStack() as stack:
                crowds = {
                    kind: await Crowd.gather(stack, served, people, drafts)
                    for kind, served in zip(KINDS, (ours, bare), strict=True)
                }
                for kind in KINDS:
                    await crowds[kind].edit(plan.seconds / 4, None)
                for number in range(plan.rounds):
                    # A B, B A: whatever drifts hits both alike.
                    for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                        await crowds[kind].edit(plan.seconds, found[kind])
            rows += _rows(plan, people, found["ours"], found["bare"])
    return rows


def _rows(plan: Plan, people: int, ours: Rounds, bare: Rounds) -> list[Row]:
    who = f"{people} {'person' if people == 1 else 'people'}"
    rate = ratios(ours.rate, bare.rate)
    goal = plan.goals.ratio

    def shares(rounds: Rounds) -> str:
        return f"{spread(rounds.server).middle:.0%} / {spread(rounds.generator).middle:.0%}"

    def times(name: str, one: Sequence[float], other: Sequence[float]) -> Row:
        return Row(
            "a",
            f"{who}: {name} until the second device has it, ms",
            f"{spread([each * 1e3 for each in one]):.2f}",
            f"{spread([each * 1e3 for each in other]):.2f}",
            f"{ratios(one, other):.2f}",
        )

    return [
        Row(
            "a",
            f"{who}: drafts per second",
            f"{spread(ours.rate):.0f}",
            f"{spread(bare.rate):.0f}",
            f"{rate:.2f}",
            f"≥ {goal}",
            rate.middle >= goal,
        ),
        times("p50", ours.p50, bare.p50),
        times("p99", ours.p99, bare.p99),
        Row(
            "a",
            f"{who}: server CPU per draft, µs",
            f"{spread([each * 1e6 for each in ours.cost]):.0f}",
            f"{spread([each * 1e6 for each in bare.cost]):.0f}",
            f"{ratios(ours.cost, bare.cost):.2f}",
        ),
        Row("a", f"{who}: share of its core, server / load generator", shares(ours), shares(bare)),
    ]
