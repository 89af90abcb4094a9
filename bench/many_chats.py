"""(d) What a draft costs with few and with many chats of the person: the CPU time of all that serves; (i) with the shared cache."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import served, services
from bench.cores import Cores
from bench.drafts import Drafts
from bench.editing import Chat
from bench.figures import ratios, spread
from bench.missing import Missing
from bench.pair import Pair
from bench.plan import Plan
from bench.redis_server import program
from bench.seeding import client_chat_id, seed
from bench.service import Service
from bench.table import Row

_RECENT = 3
_LANES = 3
"""Edits under way at once, of different chats: the server has always something to do."""
_PERSON = "writer"


class Editor:
    """A person with so many chats, on a service of their own."""

    def __init__(self, service: Service, pair: Pair, count: int) -> None:
        self._service = service
        self._pair = pair
        chats = [Chat(client_chat_id(number)) for number in range(count)]
        self._recent = chats[:_RECENT]
        # All others, in no order: neither the store's nor the cache's.
        self._others = chats[_RECENT:]
        random.Random(1).shuffle(self._others)  # the same order in each run
        self._next = 0

    async def edit(self, seconds: float, *, everywhere: bool) -> tuple[float, float]:
        """Edits for so long. Seconds of CPU per draft, and drafts per second."""
        chats: Sequence[Chat] = self._recent
        if everywhere and self._others:
            # Goes on where the last round ended, so that a chat comes again only when all have been there.
            chats = [*self._others[self._next :], *self._others[: self._next]]
        used, began = self._used(), time.perf_counter()
        await self._pair.edit(chats, seconds, _LANES)
        wall = time.perf_counter() - began
        used = self._used() - used
        count = len(self._pair.latencies)
        if everywhere and self._others:
            self._next = (self._next + count) % len(self._others)
        return used / count, count / wall

    def _used(self) -> float:
        return self._service.cpu() + self._service.redis_cpu()


@dataclass(slots=True)
class _Found:
    """By number of chats, and whether the edits were spread over all."""

    costs: dict[tuple[int, bool], list[float]] = field(default_factory=dict)
    rates: dict[tuple[int, bool], list[float]] = field(default_factory=dict)


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (d)."""

    @contextmanager
    def alone(home: Path) -> Iterator[Service]:
        with served.ours(home, cores.server) as running:
            yield Service([running])

    return await _measure("d", plan, plan.chats, folder, alone)


async def measure_shared(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (i)."""
    try:
        program()
    except Missing as missing:
        return [Row.left_out("i", "many chats with Redis", missing)]
    return await _measure("i", plan, plan.shared_chats, folder, partial(services.ours, cores=cores))


async def _measure(
    part: str,
    plan: Plan,
    counts: Sequence[int],
    folder: Path,
    opener: Callable[[Path], AbstractContextManager[Service]],
) -> list[Row]:
    drafts = Drafts()
    found = _Found()
    with ExitStack() as stack:
        editors: dict[int, Editor] = {}
        pairs: list[Pair] = []
        for count in counts:
            home = folder / f"{part}-{count}"
            await seed(home / "data", _PERSON, count, 1, drafts=False)
            service = stack.enter_context(opener(home))
            pairs.append(await Pair.open(service.url, _PERSON, drafts))
            editors[count] = Editor(service, pairs[-1], count)
        for everywhere in (False, True):
            for editor in editors.values():
                await editor.edit(plan.chat_seconds / 4, everywhere=everywhere)
            for number in range(plan.chat_rounds):
                for count in counts if number % 2 == 0 else reversed(counts):
                    cost, rate = await editors[count].edit(plan.chat_seconds, everywhere=everywhere)
                    found.costs.setdefault((count, everywhere), []).append(cost)
                    found.rates.setdefault((count, everywhere), []).append(rate)
        for pair in pairs:
            await pair.close()
    return [row for everywhere in (False, True) for row in _rows(part, plan, counts, found, everywhere)]


def _rows(part: str, plan: Plan, counts: Sequence[int], found: _Found, everywhere: bool) -> list[Row]:
    shared = " with Redis" if part == "i" else ""
    where = "edits spread over all chats" if everywhere else f"edits of the {_RECENT} most recent chats"
    cpu = "server + Redis CPU" if shared else "server CPU"
    few = found.costs[counts[0], everywhere]
    rows = []
    for count in counts:
        ours = found.costs[count, everywhere]
        base = count == counts[0]
        judged = not everywhere and not base
        relative = ratios(ours, few)
        rows.append(
            Row(
                part,
                f"{count} chats{shared}, {where}: {cpu} per draft, µs",
                f"{spread([each * 1e6 for each in ours]):.0f}",
                "" if base else f"{spread([each * 1e6 for each in few]):.0f}",
                "" if base else f"{relative:.2f}",
                f"≤ {plan.goals.flat} × {counts[0]} chats" if judged else "",
                relative.middle <= plan.goals.flat if judged else None,
            )
        )
    at = ", ".join(f"{count}: {spread(found.rates[count, everywhere]).middle:.0f}" for count in counts)
    rows.append(Row(part, f"{where}{shared}: drafts per second, by number of chats", at))
    return rows
