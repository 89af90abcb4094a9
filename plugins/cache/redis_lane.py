"""One connection to one server, on which calls that wait at the same moment leave together (one pipeline, one round trip).

redis-py's own pipeline does the same for four times the processor time, most of it spent before and after the calls; this
uses its connection, which keeps the handshake, TLS, the parser and the errors.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from plugins.cache.redis_deadlines import Deadlines
from plugins.cache.redis_layout import Script
from plugins.cache.redis_refusals import reason_of, refusal
from sidecar import Batcher, Unavailable

_MOST = 256
"""Calls of one pipeline."""
_WAITING = 10_000
"""Calls that may wait; one more is refused at once."""
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0

Redirect = MovedError | AskError | TryAgainError


@dataclass(slots=True)
class Call:
    """One script to be run. Every script can be run again: a lost answer is asked for a second time."""

    script: Script
    keys: tuple[bytes, ...]
    arguments: tuple[bytes | int, ...]
    deadline: float
    asking: bool = False
    """It follows an ASK: the server answers for a slot that is on its way to it."""

    def packed(self, *, whole: bool) -> bytes:
        """As it stands on the wire: by the script's hash, or with the script itself where the server does not know it."""
        script = self.script
        name, what = (b"EVAL", script.text) if whole else (b"EVALSHA", script.sha)
        command: bytes = hiredis.pack_command((name, what, len(self.keys), *self.keys, *self.arguments))  # type: ignore[arg-type]  # its stubs take one item for all
        return hiredis.pack_command((b"ASKING",)) + command if self.asking else command


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

    def __init__(self, connect: Callable[[], Awaitable[AbstractConnection]], timeout: float) -> None:
        """`connect` makes an open connection; `timeout` in seconds bounds one attempt to connect and one pipeline. A call ends at
        its own deadline, wherever it is by then."""
        self._connect = connect
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._batcher: Batcher[Call, Any] = Batcher(self._send, most=_MOST)
        self._deadlines = Deadlines()
        self._failures = 0
        """Pipelines in a row that broke."""
        self._pauses = 0
        self._not_before = 0.0
        self._closed = False
        self.busy = False
        """Whether a pipeline is under way."""
        self.health = Health()

    def __call__(self, call: Call) -> asyncio.Future[Any]:
        """The script's answer, or a redirection as a value: await it. Raises `Unavailable`."""
        if self._closed:
            raise Unavailable("cache", "it is closed")
        if self._batcher.unanswered >= _WAITING:
            raise Unavailable("cache", "too many calls are waiting for Redis", retry_after=0.5)
        answer = self._batcher.ask(call)
        self._deadlines.add(call.deadline, answer)
        return answer

    @property
    def waiting(self) -> int:
        """Calls that were not answered yet."""
        return self._batcher.unanswered

    async def close(self) -> None:
        """Nothing is sent any more; who still waits is told so."""
        self._closed = True
        self._deadlines.close()
        await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _open(self) -> AbstractConnection:
        connection = self._connection
        if connection is not None and connection.is_connected:
            return connection
        if self._closed:
            raise Unavailable("cache", "it is closed")
        loop = asyncio.get_running_loop()
        if loop.time() < self._not_before:
            raise Unavailable("cache", self.health.trouble or "Redis cannot be reached", self._not_before - loop.time())
        try:
            self.health.connects += 1
            async with asyncio.timeout(self._timeout):
                connection = await self._connect()
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable("cache", reason_of(error), retry_after=self._rest()) from None
        self._connection = connection
        if self._closed:  # meanwhile
            await self._drop()
            raise Unavailable("cache", "it is closed")
        return connection

    def _rest(self) -> float:
        """Leaves the server alone for a while: the more often in a row, the longer. How long, in seconds."""
        self._pauses += 1
        longest: float = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._pauses, 10))
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        self._not_before = asyncio.get_running_loop().time() + pause
        return pause

    async def _send(self, calls: Sequence[Call]) -> Sequence[Any | Exception]:
        self.busy = True
        try:
            return await self._send_all(calls)
        finally:
            self.busy = False
            self.health.at = asyncio.get_running_loop().time()

    async def _send_all(self, calls: Sequence[Call]) -> Sequence[Any | Exception]:
        now = asyncio.get_running_loop().time()
        answers: list[Any] = [None] * len(calls)
        left: list[int] = []
        for place, call in enumerate(calls):
            if call.deadline <= now:
                answers[place] = Unavailable("cache", "Redis did not answer in time", retry_after=0.2)
            else:
                left.append(place)
        self.health.batches += 1
        self.health.calls += len(left)
        self.health.largest = max(self.health.largest, len(left))
        for attempt in range(2):
            if not left:
                break
            fresh = self._connection is None
            try:
                connection = await self._open()
                left = await self._exchange(connection, calls, left, answers)
                self.health.trouble = ""
                self._failures = self._pauses = 0  # not before: who lets us in and answers nothing would be stormed
            except Unavailable as error:
                self.health.trouble = error.reason
                _fail(answers, left, error)
                break
            except (TimeoutError, RedisError, OSError) as error:
                # Whatever was answered before the connection broke is kept; the rest is asked for once more, unless it
                # was a new connection, or slow: a server that does not answer is not asked twice.
                left = [place for place in left if answers[place] is None]
                self.health.trouble = reason_of(error)
                await self._drop()
                if attempt or fresh or isinstance(error, TimeoutError | BusyLoadingError):
                    self._failures += 1
                    pause = self._rest() if self._failures > 1 else 0.2
                    _fail(answers, left, Unavailable("cache", self.health.trouble, retry_after=pause))
                    break
            except BaseException:
                await self._drop()  # the answers of this pipeline are still to come, and belong to nobody
                raise
        return [_NOTHING if answer is None else answer for answer in answers]

    async def _exchange(
        self, connection: AbstractConnection, calls: Sequence[Call], places: list[int], answers: list[Any]
    ) -> list[int]:
        """Sends these calls and takes their answers; which are to be sent again with their script."""
        async with asyncio.timeout(self._timeout):
            unknown = await _pipeline(connection, calls, places, answers, whole=False)
            if unknown:
                await _pipeline(connection, calls, unknown, answers, whole=True)
        if any(isinstance(answer, _ReadOnly) for answer in answers):
            await self._drop()  # the address leads to a replica: it may lead elsewhere by now
        return []


class _ReadOnly(Unavailable):
    """The server takes no writes: it is a replica."""


_NOTHING = RuntimeError("a call was neither answered nor refused")


async def _pipeline(
    connection: AbstractConnection, calls: Sequence[Call], places: Sequence[int], answers: list[Any], *, whole: bool
) -> list[int]:
    commands = [calls[place].packed(whole=whole) for place in places]
    try:
        await connection.send_packed_command(commands, check_health=False)
    except RuntimeError:
        # uvloop's word for a connection that was lost since it was last used.
        raise ConnectionResetError("the connection to Redis was lost") from None
    unknown = []
    for place in places:
        if calls[place].asking:
            await _asked(connection)
        try:
            answer = await connection.read_response()
            answers[place] = NIL if answer is None else answer
        except NoScriptError:
            unknown.append(place)
        except (MovedError, AskError, TryAgainError) as error:
            answers[place] = Redirected(error)
        except ReadOnlyError:
            answers[place] = _ReadOnly("cache", "Redis answers as a replica, which takes no writes", retry_after=0.5)
        except BusyLoadingError:
            raise
        except ResponseError as error:
            answers[place] = refusal(error)
    return unknown


async def _asked(connection: AbstractConnection) -> None:
    """The answer to ASKING. A refusal of it is the connection's trouble: the answer to the call itself comes all the same."""
    try:
        await connection.read_response()
    except ResponseError as error:
        raise RedisError(refusal(error).reason) from None


@dataclass(frozen=True, slots=True)
class Redirected:
    """The slot is elsewhere."""

    error: Redirect


class _Nil:
    """Redis answered nil: the place of an answer that is there and says nothing."""


NIL = _Nil()


def _fail(answers: list[Any], places: Sequence[int], error: Unavailable) -> None:
    for place in places:
        if answers[place] is None:
            answers[place] = Unavailable(error.part, error.reason, error.retry_after)
