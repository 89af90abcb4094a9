"""An event loop whose time is not real: it jumps to whatever is due next, so an hour costs nothing and a run can be repeated."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from random import Random
from typing import Any, TypeVar

from sidecar.records import milliseconds

T = TypeVar("T")

_BORN = 1_790_000_000.0


_TURNS = 50_000
"""Turns of the loop at one and the same moment, at most: a runaway, on a clock that only waiting moves."""


class _NothingComes(selectors.SelectSelector):
    """No file is ever ready; waiting moves the clock."""

    def __init__(self, moved: Callable[[float], None]) -> None:
        super().__init__()
        self._moved = moved
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits and nothing is due: a deadlock")
        if timeout > 0:
            self._moved(timeout)
            self._turns = 0
        self._turns += 1
        if self._turns > _TURNS:
            self._turns = 0
            raise AssertionError("something goes round and round and lets no time pass")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Work for threads is done on this thread, some milliseconds later: other tasks run in between, in an order that `chance` fixes."""

    def __init__(self, chance: Random) -> None:
        self._virtual = 1000.0
        self._chance = chance
        super().__init__(_NothingComes(self._move))
        self.trouble: list[BaseException] = []
        """What callbacks and tasks raised that nobody waits for; `run` raises the first of it."""
        self.set_exception_handler(self._note)

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.trouble.append(context.get("exception") or AssertionError(context["message"]))

    def _move(self, seconds: float) -> None:
        self._virtual += seconds

    def time(self) -> float:
        return self._virtual

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        answer: asyncio.Future[T] = self.create_future()
        wait = self._chance.random()
        self.call_later(0.0 if wait < 0.5 else (wait - 0.5) * 0.006, _work, answer, func, args)
        return answer

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs until this is done; everything else runs meanwhile as far as its time has come."""
        result = self.run_until_complete(work)
        if self.trouble:
            raise self.trouble[0]
        return result

    def wind_up(self, last: Coroutine[Any, Any, None]) -> None:
        """Does the last of it, ends every task, and closes. What is raised now is not told: the run is over."""
        try:
            self.run_until_complete(last)
        finally:
            for task in asyncio.all_tasks(self):
                task.cancel()
            self.run_until_complete(asyncio.sleep(0.01))
            self.run_until_complete(self.shutdown_asyncgens())
            self.close()


def _work(answer: asyncio.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
    if answer.cancelled():
        return
    try:
        result = func(*args)
    except Exception as error:
        answer.set_exception(error)
    else:
        answer.set_result(result)


class Wall:
    """The clock on the wall. It runs with the loop's, and before it by the time that passed while nobody moved."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.ahead = 0.0

    def seconds(self) -> float:
        """Since 1970."""
        return _BORN + self._loop.time() + self.ahead

    def now(self) -> datetime:
        return milliseconds(datetime.fromtimestamp(self.seconds(), UTC))
