"""(d) What a draft costs with few and with many chats of the person: the server's CPU time, in all its threads."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.drafts import Drafts
from bench.figures import ratios, spread
from bench.pair import Chat, Pair
from bench.plan import Plan
from bench.seeding import client_chat_id, seed
from bench.served import Served
from bench.table import Row

_RECENT = 3
_LANES = 3
"""Edits under way at once, of different chats: the server has always something to do."""


class Editor:
    """A person with so many chats, on a server of their own."""

    def __init__(self, served: Served, pair: Pair, count: int) -> None:
        self._served = served
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
        used, began = self._served.cpu(), time.perf_counter()
        await self._pair.edit(chats, seconds, _LANES)
        wall = time.perf_counter() - began
        used = self._served.cpu() - used
        count = len(self._pair.latencies)
        if everywhere and self._others:
            self._next = (self._next + count) % len(self._others)
        return used / count, count / wall


async def measure(plan: Plan, folder: Path, core: int | None) -> list[Row]:
    """The rows of (d)."""
    drafts = Drafts()
    costs: dict[tuple[int, bool], list[float]] = {}
    rates: dict[tuple[int, bool], list[float]] = {}
    with ExitStack() as stack:
        editors: dict[int, Editor] = {}
        pairs: list[Pair] = []
        for count in plan.chats:
            home = folder / f"d-{count}"
            await seed(home / "data", "writer", count, 1, drafts=False)
            served = stack.enter_context(Served("ours", home, core=core))
            pairs.append(await Pair.open(served.url, "writer", drafts))
            editors[count] = Editor(served, pairs[-1], count)
        for everywhere in (False, True):
            for editor in editors.values():
                await editor.edit(plan.chat_seconds / 4, everywhere=everywhere)
            for number in range(plan.chat_rounds):
                for count in plan.chats if number % 2 == 0 else reversed(plan.chats):
                    cost, rate = await editors[count].edit(plan.chat_seconds, everywhere=everywhere)
                    costs.setdefault((count, everywhere), []).append(cost)
                    rates.setdefault((count, everywhere), []).append(rate)
        for pair in pairs:
            await pair.close()
    return [row for everywhere in (False, True) for row in _rows(plan, costs, rates, everywhere)]


def _rows(
    plan: Plan,
    costs: dict[tuple[int, bool], list[float]],
    rates: dict[tuple[int, bool], list[float]],
    everywhere: bool,
) -> list[Row]:
    where = "edits spread over all chats" if everywhere else f"edits of the {_RECENT} most recent chats"
    few = costs[plan.chats[0], everywhere]
    rows = []
    for count in plan.chats:
        ours = costs[count, everywhere]
        base = count == plan.chats[0]
        judged = not everywhere and not base
        relative = ratios(ours, few)
        rows.append(
            Row(
                "d",
                f"{count} chats, {where}: server CPU per draft, µs",
                f"{spread([each * 1e6 for each in ours]):.0f}",
                "" if base else f"{spread([each * 1e6 for each in few]):.0f}",
                "" if base else f"{relative:.2f}",
                f"≤ {plan.goals.flat} × {plan.chats[0]} chats" if judged else "",
                relative.middle <= plan.goals.flat if judged else None,
            )
        )
    at = ", ".join(f"{count}: {spread(rates[count, everywhere]).middle:.0f}" for count in plan.chats)
    rows.append(Row("d", f"{where}: drafts per second, by number of chats", at))
    return rows
