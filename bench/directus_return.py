"""(k) A cold sync from Directus, and everybody who comes back at once: how long it takes, and how many calls Directus hears."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import mean

from bench.cores import Cores
from bench.directus_home import Home, Person, Refused, secret
from bench.figures import spread
from bench.first_sync import Syncs, sync_over
from bench.link import Link, LinkClosed
from bench.plan import Plan
from bench.seeding import seed
from bench.served import Served
from bench.table import Row
from plugins.persistence.directus import Directus
from tests.services.directus.front import DirectusFront

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
"""Seconds; what the protocol asks of clients: full jitter, doubling."""
_PATIENCE = 300.0
_AT_ONCE = 50


@asynccontextmanager
async def _started(sidecar: Served, *, kill: bool = False) -> AsyncIterator[Served]:
    """Started and ended in a thread: a front on this loop must answer meanwhile. `kill`: it ends by kill -9."""
    await asyncio.to_thread(sidecar.__enter__)
    try:
        yield sidecar
    finally:
        if kill:
            await asyncio.to_thread(sidecar.kill)
        await asyncio.to_thread(sidecar.__exit__, None, None, None)


async def sync(plan: Plan, folder: Path, cores: Cores, home: Home) -> list[Row]:
    """The rows of the cold sync."""
    [person] = await home.people(1)
    place, found, calls = folder / "sync", Syncs(), list[float]()
    patient = Directus.Options.model_validate({**home.options(), "write_timeout": "120s", "timeout": "60s"})
    async with Directus(patient) as store:
        await seed(place / "data", person.id, plan.directus_sync_chats, plan.sync_messages, drafts=True, store=store)
    async with DirectusFront(home.server.url) as front:
        for _ in range(plan.directus_syncs):
            async with _started(home.sidecar(place, cores.server, front.url)) as served:
                link = await person.sign_in(served.url)
                before = len(front.seen)
                await sync_over(link, plan.directus_sync_chats, found)
                calls.append(len(front.seen) - before)
    what = f"cold sync of {plan.directus_sync_chats} chats of {plan.sync_messages} messages from Directus"
    return [
        Row("k", f"{what}: first frame, ms", f"{spread([each * 1e3 for each in found.first]):.0f}"),
        Row("k", f"{what}: total, ms", f"{spread([each * 1e3 for each in found.total]):.0f}"),
        Row("k", f"{what}: calls of Directus", f"{spread(calls):.0f}"),
    ]


class _Returns:
    """Everybody, and what became of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.links: list[Link] = []
        self.errors: Counter[str] = Counter()
        self.put_off = 0
        """Sign-ins that were told to come again later."""

    async def come(self, person: Person) -> None:
        """As a client does it: again, until it is let in."""
        wait = _FIRST_WAIT
        while True:
            await asyncio.sleep(random.uniform(0.0, wait))
            wait = min(2 * wait, _LONGEST_WAIT)
            try:
                self.links.append(await person.sign_in(self._url))
            except Refused as error:
                if error.after is None:
                    self.errors[str(error)] += 1
                else:
                    self.put_off += 1
                    await asyncio.sleep(error.after)
            except (LinkClosed, OSError, TimeoutError) as error:
                self.errors[str(error) or type(error).__name__] += 1
            else:
                return

    async def leave(self) -> None:
        for link in self.links:
            link.on_closed = lambda _: None
            link.abort()


@asynccontextmanager
async def _counted(front: DirectusFront, into: list[int]) -> AsyncIterator[None]:
    """Enters the calls of each second meanwhile; of the last, unfinished one only if there is no other."""

    async def count() -> None:
        before, due = len(front.seen), time.perf_counter()
        try:
            while True:
                due += 1.0
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                into.append(len(front.seen) - before)
                before = len(front.seen)
        finally:
            if not into:
                into.append(len(front.seen) - before)

    counting = asyncio.create_task(count())
    try:
        yield
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting


async def reconnect(plan: Plan, folder: Path, cores: Cores, home: Home) -> list[Row]:
    """The rows of coming back."""
    people = await home.people(plan.directus_reconnects)
    place, rows = folder / "reconnect", list[Row]()
    with_secret = {"secret": secret()}
    async with DirectusFront(home.server.url) as front:
        async with _started(home.sidecar(place, cores.server, auth=with_secret), kill=True) as served:
            await _enrol(served.url, people)
        for how, auth in (("Directus is asked about each token", None), ("with its SECRET", with_secret)):
            async with _started(home.sidecar(place, cores.server, front.url, auth=auth), kill=True) as served:
                returns, seconds, before = _Returns(served.url), list[int](), len(front.seen)
                try:
                    took, lost = await _return(returns, people, front, seconds)
                finally:
                    await returns.leave()
                calls = front.seen[before:]
            rows += _rows(plan, how, returns, seconds, calls, took, lost)
    return rows


async def _return(
    returns: _Returns, people: Sequence[Person], front: DirectusFront, seconds: list[int]
) -> tuple[float, int]:
    """All come back; the seconds that it took, and how many did not."""
    began = time.perf_counter()
    async with _counted(front, seconds):
        coming = [asyncio.create_task(returns.come(person)) for person in people]
        try:
            _, late = await asyncio.wait(coming, timeout=_PATIENCE)
            return time.perf_counter() - began, len(late)
        finally:
            for each in coming:
                each.cancel()
            await asyncio.gather(*coming, return_exceptions=True)


async def _enrol(url: str, people: Sequence[Person]) -> None:
    """Everybody was here once and has a device."""
    for at in range(0, len(people), _AT_ONCE):
        links = await asyncio.gather(*(person.sign_in(url) for person in people[at : at + _AT_ONCE]))
        for link in links:
            link.abort()


def _rows(
    plan: Plan,
    how: str,
    returns: _Returns,
    seconds: Sequence[int],
    calls: Sequence[tuple[str, str]],
    took: float,
    lost: int,
) -> list[Row]:
    what = f"{plan.directus_reconnects} come back, {how}"
    errors, goal = Counter(returns.errors), plan.goals.directus_calls
    if lost:
        errors[f"not back within {_PATIENCE:.0f} s"] = lost
    told = "; ".join(f"{number} × {error}" for error, number in errors.most_common(5))
    kinds = Counter(f"{method} {path}" for method, path in calls).most_common(4)
    return [
        Row(
            "k",
            f"{what}: Directus calls per second (most in one)",
            f"{len(calls) / took:.1f} ({max(seconds)})",
            goal=f"≤ {goal:.0f}",
            met=len(calls) / took <= goal,
        ),
        Row(
            "k",
            f"{what}: the last is signed in after, s; told to come later; errors",
            f"{took:.1f}; {returns.put_off}; {errors.total()}" + (f" ({told})" if told else ""),
        ),
        Row(
            "k",
            f"{what}: calls in all; mean of the busy seconds",
            f"{len(calls)} ({', '.join(f'{count} {kind}' for kind, count in kinds)}); "
            f"{mean([each for each in seconds if each] or [0]):.0f}",
        ),
    ]
