"""(f) How long until the second device has a draft, while a fixed number of drafts comes each second whatever the answers do."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from bench.cores import Cores
from bench.crowd import Rounds
from bench.drafts import Drafts
from bench.figures import spread
from bench.peers import NAMES, Kind, start
from bench.plan import Plan
from bench.table import Row


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (f)."""
    drafts = Drafts()
    with ExitStack() as stack:
        peers = start(stack, "f", folder, cores)
        found: dict[Kind, Rounds] = {kind: Rounds() for kind in peers.running}
        async with AsyncExitStack() as crowds:
            gathered = {
                kind: await crowds.enter_async_context(peers.crowd(kind, plan.steady_people, drafts)) for kind in found
            }
            for crowd in gathered.values():
                await crowd.edit(plan.warm_seconds, None)
                await crowd.keep_pace(plan.steady_rate, plan.steady_seconds / 4, None)
            kinds = list(found)
            for number in range(plan.steady_rounds):
                for kind in kinds if number % 2 == 0 else reversed(kinds):
                    await gathered[kind].keep_pace(plan.steady_rate, plan.steady_seconds, found[kind])
        return [*peers.skipped, *(row for kind, rounds in found.items() for row in _rows(plan, kind, rounds))]


def _rows(plan: Plan, kind: Kind, rounds: Rounds) -> list[Row]:
    at = f"{plan.steady_rate:.0f} drafts a second of {plan.steady_people} people, {NAMES[kind]}"
    goal = {"one": plan.goals.steady, "two": plan.goals.across}.get(kind)
    mine = kind in ("one", "two")

    def row(what: str, figure: str, goal: str = "", met: bool | None = None) -> Row:
        return Row("f", f"{at}: {what}", figure if mine else "", "" if mine else figure, "", goal, met)

    def ms(values: list[float]) -> str:
        return f"{spread([each * 1e3 for each in values]):.2f}"

    across = "from device to device across processes" if kind == "two" else "until the second device has it"
    return [
        row(f"p50 {across}, ms", ms(rounds.p50)),
        row(
            f"p99 {across}, ms",
            ms(rounds.p99),
            "" if goal is None else f"< {goal * 1e3:.0f} ms",
            None if goal is None else spread(rounds.p99).middle < goal,
        ),
        row(
            "carried out each second; the load generator's own lateness p99, ms",
            f"{spread(rounds.rate):.0f}; {ms(rounds.late)}",
        ),
        row(
            "CPU",
            rounds.told(),
            f"generator ≤ {plan.goals.generator:.0%}",
            max(rounds.generator) <= plan.goals.generator,
        ),
    ]
