"""(k) Beside a Directus: messages beside what the same Directus takes at most, a cold sync, everybody who comes back at once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from bench import directus_messages, directus_return
from bench.cores import Cores
from bench.directus_home import Home
from bench.missing import Missing
from bench.plan import Plan
from bench.table import Row
from tests.services.programs import Missing as NoProgram


async def measure(plan: Plan, folder: Path, cores: Cores) -> list[Row]:
    """The rows of (k)."""
    place = folder / "k"
    place.mkdir()
    async with AsyncExitStack() as stack:
        try:
            home = await stack.enter_async_context(Home.opened(place / "directus", cores))
        except NoProgram as missing:
            return [Row.left_out("k", "Directus", Missing(str(missing)))]
        rows = await directus_messages.measure(plan, place, cores, home)
        rows += await directus_return.sync(plan, place, cores, home)
        return rows + await directus_return.reconnect(plan, place, cores, home)
