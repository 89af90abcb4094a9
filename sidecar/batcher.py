"""Calls that wait at the same moment leave together: a database transaction, a pipeline, a batch request."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


_SEVERAL = 8
"""From so many on a batch is one of several."""


class Batcher(Generic[Q, A]):
    """Turns single calls into batches: an author writes single calls, the wire sees batches.

    The first call leaves with all that were made in the same turn of the event loop. While a batch is under way further
    calls gather, and leave together when it came back: one batch at a time, so a later call never overtakes an
    earlier one. Who wants several batches at once makes several batchers. There is no task while nothing waits.

    With a `pause` calls gather for longer: for whoever has to make few batches where many calls come one by one.

    A caller that is cancelled before its question left is not asked for at all; afterwards the question takes its
    course and its answer is dropped. Neither touches the other callers. Belongs to one event loop.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]],
        *,
        most: int = 100,
        pause: Callable[[], float] | None = None,
        linger: float = 0.0,
    ) -> None:
        """`send` gets 1 to `most` questions, oldest first, and returns as many answers in the same order.

        An answer that is an exception is raised for that caller alone; one that `send` raises is raised for every
        caller of that batch. A different number of answers is a `RuntimeError` for all of them, since nobody could
        say whose they are.

        `pause` is asked before each batch for how many seconds further calls gather first, 0 for none; with `most` of them
        it leaves at once.

        `linger`: right behind a batch of several the next waits up to so many seconds until as many have gathered again.
        For a peer to which a batch costs hardly more than a call.
        """
        if most < 1:
            raise ValueError(f"a batch has room for at least one question, not {most}")
        self._send = send
        self._most = most
        self._pause = pause
        self._linger = linger
        self._last = 0
        """How many the last batch had."""
        self._last_ended = 0.0
        self._wanted = most
        self._enough = asyncio.Event()
        """As many wait as are wanted."""
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._under_way = 0

    @property
    def unanswered(self) -> int:
        """Questions that wait or are under way."""
        return len(self._waiting) + self._under_way

    async def __call__(self, question: Q) -> A:
        """The answer to this question."""
        return await self.ask(question)

    def ask(self, question: Q) -> asyncio.Future[A]:
        """The answer to this question, to be awaited at once: as a call, for a caller that wraps it in a coroutine of its own."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._task is None:
            self._start()
        elif len(self._waiting) >= self._wanted:
            self._enough.set()
        return answer

    def _start(self) -> None:
        # An empty context: the task serves many callers, and the first one's context (its log fields) is not theirs.
        task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())
        self._task = task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():  # the loop is being shut down; nobody will answer those who still wait
            while self._waiting:
                self._waiting.popleft()[1].cancel()
        elif self._waiting:  # they came between the last look at the queue and this call
            self._start()

    async def _run(self) -> None:
        while self._waiting:
            await self._gather()
            if not (batch := self._next()):
                break
            answers: Sequence[A | Exception]
            self._under_way = len(batch)
            try:
                answers = await self._send([question for question, _ in batch])
                if len(answers) != len(batch):
                    raise RuntimeError(f"{len(batch)} questions were sent and {len(answers)} answers came back")
            except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the callers
                answers = [error] * len(batch)
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            finally:
                self._under_way = 0
            self._last, self._last_ended = len(batch), asyncio.get_running_loop().time()
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)

    async def _gather(self) -> None:
        self._wanted, seconds = self._most, 0.0
        if self._linger and self._last >= _SEVERAL:
            self._wanted = self._last
            seconds = self._last_ended + self._linger - asyncio.get_running_loop().time()
        if self._pause is not None and len(self._waiting) < self._most:
            seconds = self._pause()
        if seconds <= 0 or len(self._waiting) >= self._wanted:
            return
        self._enough.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._enough.wait()

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(batch) < self._most:
            question, future = self._waiting.popleft()
            if not future.done():  # a cancelled caller's question does not leave any more
                batch.append((question, future))
        return batch


def _settle(future: asyncio.Future[A], answer: A | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, StopIteration):  # which no future can carry
        future.set_exception(RuntimeError("the answer was a StopIteration"))
    elif isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
