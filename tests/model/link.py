"""One socket between a client and the sidecar, and the network that it goes through."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import orjson
from aiohttp import WSMessage, WSMsgType

from sidecar import ConnectionId, DeviceId, UserHash
from tests.model.clock import VirtualLoop
from tests.model.weather import Weather

_CLOSED = WSMessage(WSMsgType.CLOSED, None, None)


class Reader(Protocol):
    """The client's end of a link."""

    def ready(self, epoch: str) -> None: ...
    def receive(self, frame: bytes) -> None: ...
    def cut_off(self) -> None: ...


class Link:
    """One socket and its way through the network: in order both ways, late, and cut at any moment."""

    def __init__(
        self, loop: VirtualLoop, weather: Weather, reader: Reader, user: UserHash, device: str, number: int
    ) -> None:
        self.user = user
        self.device = DeviceId(device)
        self.id = ConnectionId(f"connection-{number}")
        self._loop = loop
        self._weather = weather
        self._reader: Reader | None = reader
        self._up: deque[str] = deque()
        self._down: deque[bytes] = deque()
        self._last_up = self._last_down = 0.0
        self._inbox: asyncio.Queue[WSMessage] = asyncio.Queue()
        self._closing = False
        self.served: asyncio.Task[None] | None = None

    # -- the client's end ----------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """A frame from the client."""
        self._up.append(frame.decode())
        self._last_up = self._later(self._last_up, self._arrive)

    def cut(self, arriving: int, lingering: float) -> None:
        """The client is gone. So many of its frames on the way still arrive; the server notices after so many seconds."""
        self._reader = None
        while len(self._up) > arriving:
            self._up.pop()
        self._loop.call_later(lingering, self._inbox.put_nowait, _CLOSED)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._up and not self._down

    def _arrive(self) -> None:
        if self._up:
            self._inbox.put_nowait(WSMessage(WSMsgType.TEXT, self._up.popleft(), None))

    def _later(self, last: float, call: Callable[[], None]) -> float:
        """Calls some milliseconds later and not before `last`; the time when it does."""
        when = max(last, self._loop.time() + self._weather.chance.random() ** 3 * 0.03)
        self._loop.call_at(when, call)
        return when

    # -- the server's end: the wire of a connection, and the socket that it is read from -------------------------------

    def write(self, frame: bytes) -> None:
        if self._reader is not None and not self._closing:
            self._down.append(frame)
            self._last_down = self._later(self._last_down, self._pass)

    def _pass(self) -> None:
        if not self._down:
            return
        frame = self._down.popleft()
        if self._reader is not None:
            if frame:
                self._reader.receive(frame)
            else:
                self.break_off(0)

    def backlog(self) -> int:
        return 0

    async def write_waiting(self, frame: bytes) -> None:
        self.write(frame)
        await self._weather.back()

    def ping(self) -> None:
        """A ping says nothing here: no link is silent for long."""

    def close(self, code: int, reason: str) -> None:
        self.write(b"")  # behind what was sent before
        self._closing = True
        self._inbox.put_nowait(_CLOSED)

    def break_off(self, arriving: int) -> None:
        """The server is gone; so many of its frames on the way still arrive."""
        reader = self._reader
        for _ in range(min(arriving, len(self._down))):
            frame = self._down.popleft()
            if frame and self._reader is not None:
                self._reader.receive(frame)
        self._down.clear()
        self._up.clear()
        self._reader = None
        self._inbox.put_nowait(_CLOSED)
        if reader is not None:
            reader.cut_off()

    async def receive(self) -> WSMessage:
        return await self._inbox.get()

    async def pong(self, message: bytes = b"") -> None:
        """Nobody pings here."""

    def greet(self, epoch: str) -> None:
        """`ready`."""
        if self._reader is not None:
            self._reader.ready(epoch)


def frame(type_: str, id_: str, payload: Any) -> bytes:
    """A client frame."""
    return orjson.dumps({"type": type_, "id": id_, "payload": payload})
