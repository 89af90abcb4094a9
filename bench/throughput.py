"""(a) Drafts per second, and how long until the second device has them, beside the bare loop."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench.cores import Cores
from bench.crowd import Crowd, Rounds
from bench.drafts import Drafts
from bench.figures import ratios, spread
from bench.plan import Plan
from bench.served import bare, ours
from bench.service import Service
from bench.table import Row

KINDS = ("ours", "bare")


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (a)."""
    drafts = Drafts()
    rows: list[Row] = []
    with ours(folder / "a-ours", cores.server) as one, bare(folder / "a-bare", cores.server) as other:
        for people in plan.people:
            found = {kind: Rounds() for kind in KINDS}
            async with AsyncExitStack() as stack:
                crowds = {
                    kind: await stack.enter_async_context(Crowd.gathered(Service([served]), people, drafts))
                    for kind, served in zip(KINDS, (one, other), strict=True)
                }
                for kind in KINDS:
                    await crowds[kind].edit(plan.seconds / 4, None)
                for number in range(plan.rounds):
                    # A B, B A: whatever drifts hits both alike.
                    for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                        await crowds[kind].edit(plan.seconds, found[kind])
            rows += _rows(plan, people, found["ours"], found["bare"])
    return rows


def who(people: int) -> str:
    """For the rows."""
    return f"{people} {'person' if people == 1 else 'people'}"


def _rows(plan: Plan, people: int, ours: Rounds, bare: Rounds) -> list[Row]:
    rate = ratios(ours.rate, bare.rate)
    goal = plan.goals.ratio

    def shares(rounds: Rounds) -> str:
        return f"{spread(rounds.server).middle:.0%} / {spread(rounds.generator).middle:.0%}"

    def times(name: str, one: Sequence[float], other: Sequence[float]) -> Row:
        return Row(
            "a",
            f"{who(people)}: {name} until the second device has it, ms",
            f"{spread([each * 1e3 for each in one]):.2f}",
            f"{spread([each * 1e3 for each in other]):.2f}",
            f"{ratios(one, other):.2f}",
        )

    return [
        Row(
            "a",
            f"{who(people)}: drafts per second",
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
            f"{who(people)}: server CPU per draft, µs",
            f"{spread([each * 1e6 for each in ours.cost]):.0f}",
            f"{spread([each * 1e6 for each in bare.cost]):.0f}",
            f"{ratios(ours.cost, bare.cost):.2f}",
        ),
        Row("a", f"{who(people)}: share of its core, server / load generator", shares(ours), shares(bare)),
    ]
