"""(e) Drafts per second with the shared cache, beside Hocuspocus and a bare loop over Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from bench.cores import Cores
from bench.crowd import Rounds
from bench.drafts import Drafts
from bench.editing import BenchFailed
from bench.figures import spread
from bench.hocuspocus.installing import Hocuspocus
from bench.peers import NAMES, Kind, Peers, start
from bench.plan import Plan
from bench.service import Service
from bench.table import Row
from bench.throughput import who

PROVIDERS = "Hocuspocus under its own providers"
_PATIENCE = 120.0


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (e)."""
    drafts = Drafts()
    with ExitStack() as stack:
        peers = start(stack, "e", folder, cores)
        rows = list(peers.skipped)
        await _warm(plan, peers, drafts)
        for people in plan.people:
            found = await _edit(plan, peers, people, drafts)
            rows += _rows(plan, people, found)
            if peers.installed is not None:
                rows.append(
                    await _providers(plan, folder, peers.installed, peers.running["hocuspocus"], people, drafts)
                )
    return rows


async def _warm(plan: Plan, peers: Peers, drafts: Drafts) -> None:
    """Above all V8, which compiles what it has seen often."""
    for kind in peers.running:
        async with peers.crowd(kind, plan.warm_people, drafts) as crowd:
            await crowd.edit(plan.warm_seconds, None)


async def _edit(plan: Plan, peers: Peers, people: int, drafts: Drafts) -> Mapping[Kind, Rounds]:
    found: dict[Kind, Rounds] = {kind: Rounds() for kind in peers.running}
    async with AsyncExitStack() as crowds:
        gathered = {kind: await crowds.enter_async_context(peers.crowd(kind, people, drafts)) for kind in found}
        for crowd in gathered.values():
            await crowd.edit(plan.seconds / 4, None)
        kinds = list(found)
        for number in range(plan.peer_rounds):
            # A B C, C B A: whatever drifts hits all alike.
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                await gathered[kind].edit(plan.seconds, found[kind])
        if peers.installed is not None:
            await _check(peers.installed, peers.running["hocuspocus"], gathered["hocuspocus"].last_text())
    return found


async def _ask(installed: Hocuspocus, *arguments: str) -> object:
    """What the Node script answers, as JSON; it runs where this process does, on the load generator's core."""
    process = await asyncio.create_subprocess_exec(
        *installed.command("providers", *arguments), cwd=installed.folder, stdout=-1, stderr=-1
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            said, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise BenchFailed(f"Hocuspocus' providers did not end within {_PATIENCE:.0f} s") from None
    if process.returncode != 0:
        raise BenchFailed(f"Hocuspocus' providers ended with {process.returncode}: {errors.decode()[-1000:]}")
    answer: object = json.loads(said)
    return answer


def _websocket(service: Service) -> str:
    return service.url.replace("http://", "ws://", 1)


async def _check(installed: Hocuspocus, service: Service, last: tuple[bytes, bytes]) -> None:
    """Our hand-written updates count only if a real provider reads what they wrote."""
    document, text = last
    read = await _ask(installed, _websocket(service), "0", "", "", "", document.decode())
    if read != text.decode():
        raise BenchFailed(f"a Hocuspocus provider read {str(read)[:200]!r} where {text[:200]!r} was written")


async def _providers(
    plan: Plan, folder: Path, installed: Hocuspocus, service: Service, people: int, drafts: Drafts
) -> Row:
    file = folder / "draft.json"
    file.write_bytes(drafts.pattern)
    asked = (_websocket(service), str(people), str(plan.seconds), str(plan.peer_rounds), str(file))
    answer = await _ask(installed, *asked)
    if not isinstance(answer, list):
        raise BenchFailed(f"Hocuspocus' providers said {answer!r}")

    def of(name: str) -> list[float]:
        return [float(each[name]) for each in answer]

    return Row(
        "e",
        f"{who(people)}: {PROVIDERS}: drafts per second (p50 / p99 ms, load generator)",
        "",
        f"{spread(of('rate')):.0f} ({spread(of('p50')).middle * 1e3:.2f} / {spread(of('p99')).middle * 1e3:.2f}, "
        f"{spread(of('generator')).middle:.0%})",
    )


def _rows(plan: Plan, people: int, found: Mapping[Kind, Rounds]) -> list[Row]:
    goals = plan.goals
    compared: tuple[tuple[Kind, Kind, float | None], ...] = (
        ("one", "hocuspocus", goals.over_hocuspocus if people >= goals.over_hocuspocus_from else None),
        ("one", "bare", goals.over_bare_redis),
        ("two", "one", None),
    )
    rows = [
        row
        for ours, beside, goal in compared
        if ours in found and beside in found
        for row in _beside(people, ours, beside, found, goal)
    ]
    for kind, rounds in found.items():
        rows += [_times(people, kind, rounds), _shares(plan, people, kind, rounds)]
    return rows


def _beside(people: int, ours: Kind, beside: Kind, found: Mapping[Kind, Rounds], goal: float | None) -> list[Row]:
    what = f"{NAMES[ours]} beside {NAMES[beside]}"

    def row(name: str, one: Sequence[float], other: Sequence[float], goal: float | None = None) -> Row:
        return Row.compared("e", f"{who(people)}: {name}, {what}", one, other, goal)

    return [
        row("drafts per second", found[ours].rate, found[beside].rate, goal),
        row("drafts per second of CPU time", found[ours].per_core_second, found[beside].per_core_second),
    ]


def _placed(kind: Kind, figure: str) -> tuple[str, str]:
    """In the column of ours, or in that of the peers."""
    return (figure, "") if kind in ("one", "two") else ("", figure)


def _times(people: int, kind: Kind, rounds: Rounds) -> Row:
    figure = " / ".join(f"{spread([each * 1e3 for each in values]):.2f}" for values in (rounds.p50, rounds.p99))
    return Row("e", f"{who(people)}: {NAMES[kind]}: p50 / p99, ms", *_placed(kind, figure))


def _shares(plan: Plan, people: int, kind: Kind, rounds: Rounds) -> Row:
    return Row(
        "e",
        f"{who(people)}: {NAMES[kind]}: CPU",
        *_placed(kind, rounds.told()),
        "",
        f"generator ≤ {plan.goals.generator:.0%}",
        max(rounds.generator) <= plan.goals.generator,
    )
