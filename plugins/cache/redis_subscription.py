"""A connection to Redis on which one channel is heard.

As `redis_wire`: redis-py opens the connection, and what it would do for each message costs more than telling it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from plugins.cache.redis_wire import Wire


class Subscription(Wire):
    """Takes over a connection that redis-py has opened and that speaks RESP2. Close it when it is no longer needed."""

    __slots__ = ("_ended", "_told", "address", "confirmed", "heard")

    def __init__(self, connection: AbstractConnection, told: Callable[[bytes], None], address: str = "") -> None:
        """`told` is called with each message. `address`: of the node, where the server is one of many."""
        loop = asyncio.get_running_loop()
        self._told = told
        self.address = address
        self._ended: asyncio.Future[Exception] = loop.create_future()
        self.heard = loop.time()
        """When anything came from the server last, by the loop's clock."""
        self.confirmed = False
        """The server has answered."""
        super().__init__(connection)

    def ask(self, *words: bytes | str) -> None:
        """Sends a command; nobody waits for the answer."""
        if not self.lost:
            self._write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stubs take one item for all

    async def ended(self, seconds: float) -> None:
        """Waits so long; raises `RedisError` when the subscription ends meanwhile, or has ended."""
        if self.lost and not self._ended.done():
            raise Lost("the subscription was lost")
        await asyncio.wait([self._ended], timeout=seconds)
        if self._ended.done():
            raise self._ended.result()

    def _finish(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_result(error)

    def data_received(self, data: bytes) -> None:
        self.heard = asyncio.get_running_loop().time()
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not False:
                self._take(answer)
        except InvalidResponse as error:
            self._finish(error)

    def _take(self, answer: Any) -> None:
        if isinstance(answer, RedisError):
            # A server that cannot save its data refuses even PING, and publishes all the same: it lives.
            if not isinstance(answer, ResponseError) or not str(answer).startswith("MISCONF"):
                self._finish(answer)
            return
        self.confirmed = True
        if isinstance(answer, list) and answer[0] == b"message":
            self._told(answer[2])

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._finish(Lost("the subscription was lost"))
