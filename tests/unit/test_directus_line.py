"""Sign-ins leave for Directus at a pace, in their order, and whoever has to come later has a place then."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from plugins.auth.directus_line import Line
from plugins.auth.directus_pace import Pace
from sidecar import Unavailable
from tests.unit.fake_time import FakeTime

PATIENCE = 4.0


class Crowd:
    """Everybody comes again until let in, as clients do: when they were told to, with jitter."""

    def __init__(self, time: FakeTime, line: Line, late: float = 1.0) -> None:
        self._time = time
        self._line = line
        self._late = late
        self._chance = random.Random(7)
        self.left: list[float] = []
        """When a call left for somebody."""
        self.told: Counter[str] = Counter()
        self.tries: list[float] = []
        self.longest_wait = 0.0
        """In the line."""
        self.longest_told = 0.0

    async def come(self, name: str) -> None:
        while True:
            began = self._time.now
            self.tries.append(began)
            try:
                await self._line.turn(name)
            except Unavailable as error:
                self.longest_wait = max(self.longest_wait, self._time.now - began)
                wait = error.retry_after or 0.0
                self.told[name] += 1
                self.longest_told = max(self.longest_told, wait)
                await self._time.sleep(wait + self._chance.uniform(0.0, self._late))
            else:
                self.left.append(self._time.now)
                self.longest_wait = max(self.longest_wait, self._time.now - began)
                return


def most_in_a_second(left: Sequence[float]) -> int:
    """The most that left in any second, wherever it begins."""
    return max(sum(1 for each in left[at : at + 2000] if each < left[at] + 1.0 - 1e-9) for at in range(len(left)))


def test_in_no_second_more_calls_leave_than_may_and_no_time_is_lost() -> None:
    time = FakeTime()
    pace = Pace(40, time.clock)
    left: list[float] = []
    for _ in range(1000):
        time.now += pace.wait()
        pace.count()
        left.append(time.now)
    assert 10 <= left.count(left[0]) <= 11, "a few people at once are no crowd"
    assert most_in_a_second(left) == 40
    assert left[-1] - left[0] <= 1000 / 40
    assert max(late - early for early, late in itertools.pairwise(left)) < 0.6, "and then evenly"
    time.now += 1.1
    assert not pace.busy
    assert pace.wait() == 0.0


def test_what_did_not_wait_is_counted_and_a_late_beat_is_made_up_for() -> None:
    time = FakeTime()
    pace = Pace(40, time.clock)
    for _ in range(40):
        pace.count()
    assert pace.wait() == 1.0
    left: list[float] = []
    time.now += 2.0
    for _ in range(400):
        time.now += pace.wait() + 0.02  # the loop is late each time
        pace.count()
        left.append(time.now)
    assert most_in_a_second(left) <= 40
    assert left[-1] - left[0] < 400 / 40 + 0.3


async def test_thousands_who_come_at_once_are_each_told_once_when_to_come_and_all_let_in() -> None:
    time = FakeTime()
    pace = Pace(44, time.clock)
    line = Line(pace, PATIENCE, time.clock, time.sleep)
    crowd = Crowd(time, line)
    coming = [asyncio.create_task(crowd.come(f"token {number}")) for number in range(3000)]
    began = time.now
    while not all(task.done() for task in coming):
        await time.run(1.0)
    assert most_in_a_second(crowd.left) <= 44
    assert crowd.left[-1] - began < 3000 / 44 * 1.05 + 3, "those who came late left no gap for others to fall into"
    assert crowd.longest_wait < PATIENCE + 1
    assert 55.0 < crowd.longest_told <= 60.0
    assert sum(times == 1 for times in crowd.told.values()) > 2200
    assert max(crowd.told.values()) == 2, "those whose time is more than a minute away are told twice"
    assert most_in_a_second(sorted(crowd.tries[3000:])) < 44 * 3, "and nobody comes again in a crowd"
    await line.close()


async def test_no_stream_of_newcomers_keeps_those_out_who_were_told_to_come_later() -> None:
    time = FakeTime()
    line = Line(Pace(20, time.clock), PATIENCE, time.clock, time.sleep)
    early, newcomers = Crowd(time, line), Crowd(time, line)
    waiting = [asyncio.create_task(early.come(f"early {number}")) for number in range(400)]
    await time.settle()
    assert len(early.told) > 300
    pouring: list[asyncio.Task[None]] = []
    for tenth in range(300):
        pouring += [asyncio.create_task(newcomers.come(f"new {tenth} {number}")) for number in range(10)]
        await time.run(0.1)
    assert all(task.done() for task in waiting), "a hundred a second came meanwhile, five times what the pace lets in"
    assert max(early.told.values()) == 1
    assert len(newcomers.left) > 20, "they have what the others leave"
    for task in pouring:
        task.cancel()
    await asyncio.gather(*waiting, *pouring, return_exceptions=True)
    await line.close()


async def test_appointments_that_nobody_keeps_keep_nobody_out() -> None:
    time = FakeTime()
    line = Line(Pace(20, time.clock), PATIENCE, time.clock, time.sleep)
    gone = [asyncio.create_task(line.turn(f"gone {number}")) for number in range(30_000)]
    await time.run(10.0)
    assert sum(isinstance(answer, Unavailable) for answer in await asyncio.gather(*gone, return_exceptions=True))
    newcomers = Crowd(time, line)
    for number in range(100):
        task = asyncio.create_task(newcomers.come(f"new {number}"))
        await time.run(0.1)
        assert task.done()
    assert not newcomers.told
    assert len(line._appointments) <= 20_000
    await time.run(20_000 / 20 * 1.1 + 61)
    crowd = [asyncio.create_task(newcomers.come(f"later {number}")) for number in range(20)]
    await time.run(5.0)
    assert all(task.done() for task in crowd)
    assert not newcomers.told
    assert not line._appointments, "what is long over is forgotten"
    await line.close()


async def test_who_comes_too_early_is_told_the_same_time_again_and_who_comes_late_is_let_in() -> None:
    time = FakeTime()
    line = Line(Pace(10, time.clock), PATIENCE, time.clock, time.sleep)
    others = Crowd(time, line)
    coming = [asyncio.create_task(others.come(f"token {number}")) for number in range(300)]
    await time.settle()

    async def told(name: str) -> float:
        with pytest.raises(Unavailable) as caught:
            await line.turn(name)
        assert caught.value.retry_after is not None
        return time.now + caught.value.retry_after

    at = await told("eager")
    for _ in range(3):
        await time.run(1.0)
        assert await told("eager") == pytest.approx(at), "neither earlier for it nor later"
    await time.run(at - time.now + 20.0)
    late = asyncio.create_task(line.turn("eager"))
    await time.run(PATIENCE)
    assert late.done()
    await late
    await time.run(60.0)
    await asyncio.gather(*coming)
    await line.close()


async def test_many_who_come_late_at_once_keep_their_places() -> None:
    """As after a break of the network: they are more than may wait, and still come before those who come for the first time."""
    time = FakeTime()
    line = Line(Pace(10, time.clock), PATIENCE, time.clock, time.sleep)
    first = [asyncio.create_task(line.turn(f"token {number}")) for number in range(200)]
    await time.run(45.0)
    assert sum(isinstance(each, Unavailable) for each in await asyncio.gather(*first, return_exceptions=True)) > 150
    back = Crowd(time, line, late=0.1)
    coming = [asyncio.create_task(back.come(f"token {number}")) for number in range(150, 200)]
    coming += [asyncio.create_task(back.come(f"token {number}")) for number in range(80, 150)]
    await time.settle()
    newcomers = Crowd(time, line)
    pouring: list[asyncio.Task[None]] = []
    for tenth in range(150):
        pouring += [asyncio.create_task(newcomers.come(f"new {tenth} {number}")) for number in range(5)]
        await time.run(0.1)
    assert all(task.done() for task in coming), "120 within 15 s, at ten a second, while fifty a second came"
    for task in pouring:
        task.cancel()
    await asyncio.gather(*pouring, return_exceptions=True)
    await line.close()


async def test_who_goes_while_waiting_takes_no_turn_from_others() -> None:
    time = FakeTime()
    line = Line(Pace(4, time.clock), PATIENCE, time.clock, time.sleep)
    tasks = [asyncio.create_task(line.turn(f"token {number}")) for number in range(12)]
    await time.settle()
    for task in tasks[1:11]:
        task.cancel()
    await time.run(1.0)
    assert tasks[11].done(), "as if it had stood behind nobody"
    closed = asyncio.create_task(line.turn("one more"))
    more = [asyncio.create_task(line.turn(f"more {number}")) for number in range(5)]
    await time.settle()
    await line.close()
    for task in (closed, *more):
        task.cancel()
    await asyncio.gather(*tasks, closed, *more, return_exceptions=True)
