"""One connection to one server, on which calls that wait at the same moment leave together (one pipeline, one round trip).

redis-py's own pipeline does the same for several times the processor time, most of it spent before and after the calls. While all
is well there is no task here: a pipeline leaves in a callback, and its answers are given out where they come in.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.exceptions import BusyLoadingError, RedisError

from plugins.cache.redis_calls import Call, Replica, answers_of, commands_of, crossed, packed, take
from plugins.cache.redis_deadlines import Deadlines
from plugins.cache.redis_refusals import reason_of
from plugins.cache.redis_tasks import end
from plugins.cache.redis_wire import Wire
from sidecar import Unavailable

_MOST = 256
"""Calls of one pipeline."""
_WAITING = 10_000
"""Calls that may wait; one more is refused at once."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


@dataclass(slots=True)
class Health:
    """How a server fares, for `/readyz` and the tests."""

    batches: int = 0
    calls: int = 0
    connects: int = 0
    trouble: str = ""
    """Why the last batch failed; empty while all is well."""
    largest: int = 0
    """Calls of the largest batch."""
    at: float = 0.0
    """When the last batch ended, in the loop's time."""


class Lane:
    """Calls to one server, in their order, one pipeline at a time. Close it when it is no longer needed.

    A server that cannot be reached is left alone for a while (50 ms, doubling to 1 s, with jitter); calls made meanwhile are
    refused at once, so that nobody waits for a time-out in a row.
    """

    def __init__(self, connect: Callable[[], Awaitable[Wire]], timeout: float, *, apart: bool = False) -> None:
        """`connect` opens a connection; `timeout` in seconds bounds one attempt to connect and one pipeline. A call ends at
        its own deadline, wherever it is by then. `apart`: the server wants the keys of a command in one slot, as a node of a
        cluster does; of others this is found out."""
        self._connect = connect
        self._timeout = timeout
        self._apart = apart
        self._wire: Wire | None = None
        self._waiting: deque[tuple[Call, asyncio.Future[Any]]] = deque()
        self._calls: Sequence[Call] = ()
        self._futures: Sequence[asyncio.Future[Any]] = ()
        self._commands: Sequence[Sequence[int]] = ()
        self._at_work = False
        """A pipeline is under way, or about to leave."""
        self._helper: asyncio.Task[None] | None = None
        """Works on a pipeline that needs more than to be sent and answered."""
        self._deadlines = Deadlines()
        self._failures = 0
        """Pipelines in a row that broke."""
        self._pauses = 0
        self._not_before = 0.0
        self._closed = False
        self.health = Health()

    def __call__(self, call: Call) -> asyncio.Future[Any]:
        """The script's answer, or a redirection as a value: await it. Raises `Unavailable`."""
        if self._closed:
            raise Unavailable("cache", "it is closed")
        if len(self._waiting) + len(self._calls) >= _WAITING:
            raise Unavailable("cache", "too many calls are waiting for Redis", retry_after=0.5)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((call, answer))
        self._deadlines.add(call.deadline, answer)
        if not self._at_work:
            self._at_work = True
            loop.call_soon(self._leave)  # with all that are made in this turn of the loop
        return answer

    @property
    def busy(self) -> bool:
        """Whether a pipeline is under way."""
        return bool(self._calls)

    @property
    def waiting(self) -> int:
        """Calls that were not answered yet."""
        return len(self._waiting) + len(self._calls)

    async def close(self) -> None:
        """Nothing is sent any more; who still waits is told so."""
        self._closed = True
        self._deadlines.close()
        self._drop()
        for answer in (*self._futures, *(answer for _, answer in self._waiting)):
            if not answer.done():
                answer.set_exception(Unavailable("cache", "it is closed"))
        self._waiting.clear()
        if self._helper is not None:
            await end(self._helper)

    def _drop(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    # -- while all is well ---------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """The next pipeline."""
        calls: list[Call] = []
        futures: list[asyncio.Future[Any]] = []
        now = asyncio.get_running_loop().time()
        while self._waiting and len(calls) < _MOST:
            call, answer = self._waiting.popleft()
            # Neither a cancelled call nor one whose time is over leaves any more: the deadlines see to the latter.
            if not answer.done() and call.deadline > now:
                calls.append(call)
                futures.append(answer)
        self._calls, self._futures = calls, futures
        if not calls:
            self._at_work = bool(self._waiting)
            if self._at_work:
                asyncio.get_running_loop().call_soon(self._leave)
            return
        health = self.health
        health.batches += 1
        health.calls += len(calls)
        health.largest = max(health.largest, len(calls))
        wire = self._wire
        if wire is None or wire.lost:
            self._help([None] * len(calls), None)
            return
        try:
            commands = self._commands = commands_of(calls, range(len(calls)), apart=self._apart)
            pipeline = b"".join([packed(calls, command, whole=False) for command in commands])
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to the callers
            self._settle([error] * len(calls))
            return
        wire.send(pipeline, answers_of(calls, commands), self._timeout, self._came)

    def _came(self, error: Exception | None) -> None:
        answers: list[Any] = [None] * len(self._calls)
        again = False
        wire = self._wire
        if wire is not None:
            try:
                again = self._take(self._calls, self._commands, wire.answers, answers)
            except RedisError as found:
                error = error or found
        if error is not None or again:
            self._help(answers, error)
        else:
            self._settle(answers)

    def _take(
        self, calls: Sequence[Call], commands: Sequence[Sequence[int]], came: Sequence[Any], answers: list[Any]
    ) -> bool:
        again = take(calls, commands, came, answers)
        if again and any(map(crossed, commands, came)):
            self._apart = True  # a cluster behind a proxy: it looks like one server, and has slots
        return again

    def _settle(self, answers: Sequence[Any]) -> None:
        """These are the answers of the pipeline that was under way; the next one leaves."""
        futures, self._futures, self._calls = self._futures, (), ()
        self.health.trouble = ""
        self.health.at = asyncio.get_running_loop().time()
        self._failures = self._pauses = 0  # not before: who lets us in and answers nothing would be stormed
        self._give(futures, answers)
        self._go_on()

    def _give(self, futures: Sequence[asyncio.Future[Any]], answers: Sequence[Any]) -> None:
        for answer, told in zip(futures, answers, strict=True):
            if answer.done():
                continue
            if isinstance(told, Exception):
                answer.set_exception(told)
                if isinstance(told, Replica):
                    self._drop()  # the address leads to a replica: it may lead elsewhere by now
            else:
                answer.set_result(told)

    def _go_on(self) -> None:
        if self._waiting and not self._closed:
            asyncio.get_running_loop().call_soon(self._leave)  # with those whom these answers lead to ask on
        else:
            self._at_work = False

    # -- otherwise -----------------------------------------------------------------------------------------------------

    def _help(self, answers: list[Any], error: Exception | None) -> None:
        # An empty context: the task serves many callers, and the first one's context (its log fields) is not theirs.
        self._helper = asyncio.get_running_loop().create_task(
            self._send_on(self._calls, answers, error), context=contextvars.Context()
        )
        self._helper.add_done_callback(self._helped)

    def _helped(self, task: asyncio.Task[None]) -> None:
        futures, self._futures, self._calls = self._futures, (), ()
        self._helper = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            self._drop()  # the answers of this pipeline are still to come, and belong to nobody
        for answer in futures:
            if answer.done():
                continue
            if error is not None:
                answer.set_exception(error)
            else:
                answer.cancel()
        self._go_on()

    async def _send_on(self, calls: Sequence[Call], answers: list[Any], error: Exception | None) -> None:
        """Sends what has no answer yet. `error` is what happened when it was sent before."""
        fresh = False
        for attempt in range(2):
            left = [place for place, answer in enumerate(answers) if answer is None]
            if not left:
                break
            try:
                if error is not None:
                    raise error
                fresh = self._wire is None
                await self._exchange(await self._open(), calls, left, answers)
                self.health.trouble = ""
                self._failures = self._pauses = 0
                break
            except Unavailable as refused:
                self.health.trouble = refused.reason
                _fail(answers, refused)
            except (TimeoutError, RedisError, OSError) as broken:
                # Whatever was answered before the connection broke is kept; the rest is asked for once more, unless it
                # was a new connection, or slow: a server that does not answer is not asked twice.
                error = None
                self.health.trouble = reason_of(broken)
                self._drop()
                if attempt or fresh or isinstance(broken, TimeoutError | BusyLoadingError):
                    self._failures += 1
                    pause = self._rest() if self._failures > 1 else 0.2
                    _fail(answers, Unavailable("cache", self.health.trouble, retry_after=pause))
        self.health.at = asyncio.get_running_loop().time()
        self._give(self._futures, answers)

    async def _exchange(self, wire: Wire, calls: Sequence[Call], places: list[int], answers: list[Any]) -> None:
        """Sends these calls and takes their answers; those whose script the server does not know once more, with it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        for whole in (False, True):
            commands = commands_of(calls, places, apart=self._apart)
            pipeline = b"".join([packed(calls, command, whole=whole) for command in commands])
            done: asyncio.Future[Exception | None] = loop.create_future()
            wire.send(pipeline, answers_of(calls, commands), max(0.0, until - loop.time()), partial(_set, done))
            error = await done
            again = self._take(calls, commands, wire.answers, answers)
            if error is not None:
                raise error
            if not again:
                return
            places = [place for place in places if answers[place] is None]

    async def _open(self) -> Wire:
        wire = self._wire
        if wire is not None and not wire.lost:
            return wire
        self._drop()
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            raise Unavailable("cache", self.health.trouble or "Redis cannot be reached", self._not_before - loop.time())
        try:
            self.health.connects += 1
            async with asyncio.timeout(self._timeout):
                wire = await self._connect()
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable("cache", reason_of(error), retry_after=self._rest()) from None
        self._wire = wire
        if self._closed:  # meanwhile
            self._drop()
            raise Unavailable("cache", "it is closed")
        return wire

    def _rest(self) -> float:
        """Leaves the server alone for a while: the more often in a row, the longer. How long, in seconds."""
        self._pauses += 1
        longest: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._pauses, 10))
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        self._not_before = asyncio.get_running_loop().time() + pause
        return pause


def _set(done: asyncio.Future[Exception | None], error: Exception | None) -> None:
    if not done.done():
        done.set_result(error)


def _fail(answers: list[Any], error: Unavailable) -> None:
    for place, answer in enumerate(answers):
        if answer is None:
            answers[place] = Unavailable(error.part, error.reason, error.retry_after)
