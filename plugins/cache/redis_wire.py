"""An open connection to Redis: one pipeline at a time is sent on it, and its answers come together.

redis-py opens the connection: address, TLS, password, handshake. What it would do then for each answer costs several times what
the answer itself does, so from there on hiredis gets what the transport reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import hiredis
from redis._parsers.base import BaseParser
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import InvalidResponse

Came = Callable[[Exception | None], None]

_LOST = "the connection to Redis was lost"


def _error(answer: str) -> Exception:
    """An answer that is an error, in redis-py's classes."""
    return cast("Exception", BaseParser.parse_error(answer))  # type: ignore[no-untyped-call]


class Wire(asyncio.Protocol):
    """Takes over a connection that redis-py has opened and that speaks RESP2, where nothing comes that was not asked for.

    Close it when it is no longer needed. Belongs to one event loop.
    """

    __slots__ = ("_came", "_expected", "_reader", "_timer", "_transport", "_writer", "answers", "lost")

    def __init__(self, connection: AbstractConnection) -> None:
        # It has no other way to its transport, and closes it when it is collected.
        writer, connection._writer, connection._reader = connection._writer, None, None
        if writer is None:
            raise Lost(_LOST)
        self._writer = writer  # which would close the transport as well
        self._transport: asyncio.WriteTransport = writer.transport
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_error)
        self._came: Came | None = None
        self._expected = 0
        self._timer: asyncio.TimerHandle | None = None
        self.answers: list[Any] = []
        """Of the pipeline that was sent last, those that have come. An error is one of redis-py's exceptions."""
        self.lost = self._transport.is_closing()
        """Nothing can be sent any more."""
        self._transport.set_protocol(self)

    def send(self, pipeline: bytes, expected: int, timeout: float, came: Came) -> None:
        """Sends this; `came` is called once, when so many `answers` are there, or with the error that kept some of them away.

        After an error (`TimeoutError`, or one of redis-py's) the connection is of no use.
        """
        self.answers = []
        self._expected = expected
        self._came = came
        loop = asyncio.get_running_loop()
        if self.lost:
            loop.call_soon(self._end, Lost(_LOST))
            return
        self._write(pipeline)
        if self.lost:
            loop.call_soon(self._end, Lost(_LOST))
            return
        self._timer = loop.call_later(timeout, self._end, TimeoutError())

    def _write(self, data: bytes) -> None:
        try:
            self._transport.write(data)
        except RuntimeError:  # uvloop's word for a connection that was lost since it was last used
            self.lost = True

    def close(self) -> None:
        """Ends the connection. What was sent is not answered any more, and nobody is told."""
        self.lost = True
        self._came = None
        self._stop_timer()
        self._transport.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, error: Exception | None) -> None:
        """The pipeline is over."""
        self._stop_timer()
        came, self._came = self._came, None
        if came is not None:
            came(error)

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        reader, answers = self._reader, self.answers
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                answers.append(answer)
        except InvalidResponse as error:
            self._end(error)
            return
        if self._came is None:
            # Nobody asked: whose the next answer is, nobody could tell.
            self.lost = True
            self._transport.abort()
        elif len(answers) >= self._expected:
            self._end(None)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._end(Lost(_LOST))
