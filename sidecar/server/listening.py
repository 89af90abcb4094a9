"""Sockets that are listened on, with a deadline for whoever connects and says nothing (threats T19, T20)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from aiohttp import web

from sidecar.errors import StartRefused
from sidecar.server.masks import Masks

BACKLOG = 4096
"""Connections that the kernel may hold until they are accepted, up to its own limit. Beyond it a client believes itself connected
and hears nothing: after a restart thousands come within a second."""
_HANDSHAKE_SECONDS = 5.0
_HALF_OPEN = 2 * BACKLOG
"""TCP connections without a whole request that may be open at once; one more, and the oldest of them goes. Those that the kernel
has held come all in one round of the loop, and are heard in the next, when as many may come again."""
_SEND_BUFFER = 256 * 1024
"""Bytes that the system keeps for a reader that takes nothing; by itself it would keep megabytes for each (threats T18)."""
_END_OF_HEAD = b"\r\n\r\n"


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `StartRefused` naming what to change."""
    with _refused_where_taken(host, port):
        return _bound(host, port, listening=True)


def share(host: str, port: int) -> socket.socket:
    """A socket on a port that other processes of this sidecar have too; who listens on it is dealt a part of the connections.

    Raises `StartRefused`.
    """
    with _refused_where_taken(host, port):
        return _bound(host, port, shared=True)


def reserve(host: str, port: int) -> socket.socket:
    """Takes a port for workers that `share` it. Raises `StartRefused`, also where another program has it and would share it."""
    with _refused_where_taken(host, port), _bound(host, port, listening=True) as alone:
        # First as one that shares with nobody: the kernel would let any other process of this user in.
        port = alone.getsockname()[1]
    return share(host, port)


def url_of(bound: socket.socket) -> str:
    """`http://host:port`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _refused_where_taken(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise StartRefused(
            "server", f"cannot listen on {host}:{port} ({why}); change server.host or server.port"
        ) from None


def _bound(host: str, port: int, *, shared: bool = False, listening: bool = False) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # what is accepted inherits it
        bound.bind((host, port))
        if listening:
            bound.listen(BACKLOG)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


class Incoming(asyncio.Protocol):
    """One TCP connection: passes everything to aiohttp's protocol, under a deadline until a whole request has come.

    Once the connection is a WebSocket, a frame without a mask ends it (RFC 6455 §5.1).
    """

    __slots__ = ("_bare", "_handler", "_head", "_masks", "_room", "_timer", "_transport", "_upgraded", "_waiting")

    def __init__(self, handler: web.RequestHandler, waiting: dict[Incoming, None], seconds: float) -> None:
        self._handler = handler
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(seconds, self._late)
        self._transport: asyncio.Transport | None = None
        self._head: bytes | None = b""
        """The last bytes of a head that has not ended yet; None: it has."""
        self._masks = Masks()
        self._bare = False
        """A frame without a mask has come."""
        self._upgraded = False
        self._room: asyncio.Future[None] | None = None
        """Set while the transport takes nothing: done when it does again, or is lost."""
        waiting[self] = None

    def arrived(self) -> None:
        """A whole request has come: the deadline is off."""
        self._waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        # What it sent may lie there unread, while thousands come at once: between one timer and the next the loop reads.
        self._timer = asyncio.get_running_loop().call_later(0, self.cut)

    def upgraded(self) -> None:
        """From here on, and from behind the request's head, this is a WebSocket."""
        self._upgraded = True
        self._head = None
        if self._bare:
            self.cut()

    def cut(self) -> None:
        """Ends the connection without a word."""
        self.arrived()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclass of it
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._look_for_frames(data)
        elif not self._bare:
            self._bare = not self._masks.follow(data)
        if self._bare and self._upgraded:
            self.cut()
            return
        self._handler.data_received(data)

    def _look_for_frames(self, data: bytes) -> None:
        # What comes behind the head is frames only if the request turns out to be an upgrade; they may be in this very chunk.
        seen = (self._head or b"") + data
        end = seen.find(_END_OF_HEAD)
        if end < 0:
            self._head = seen[-3:]
            return
        self._head = None
        self.arrived()
        self._bare = not self._masks.follow(seen[end + 4 :])

    def eof_received(self) -> bool | None:
        self._handler.eof_received()
        return None

    def connection_lost(self, exc: BaseException | None) -> None:
        self.arrived()
        self._transport = None
        self._make_room()
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._make_room()
        self._handler.resume_writing()

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)

    def backlog(self) -> int:
        """Bytes that the transport has not got rid of."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    async def drained(self) -> None:
        """Returns when the transport takes more. Raises `ConnectionError` when it is lost."""
        if self._room is not None:
            await asyncio.wait([self._room])  # which cancels nothing but the waiting, so that others may go on waiting
        if self._transport is None:
            raise ConnectionResetError("the connection is lost")


class Handshakes:
    """Makes the protocol of each connection, and cuts those that send no whole request in time.

    aiohttp itself waits for good, so that connections which drip their headers would pile up. When there are too many of
    them the oldest goes first: a client that sends its request at once gets in, however many others only drip.
    """

    def __init__(self, *, seconds: float = _HANDSHAKE_SECONDS, half_open: int = _HALF_OPEN) -> None:
        self.make: Callable[[], web.RequestHandler] | None = None
        """aiohttp's factory; set before the first connection."""
        self._seconds = seconds
        self._half_open = half_open
        self._waiting: dict[Incoming, None] = {}

    def __call__(self) -> asyncio.Protocol:
        if self.make is None:
            raise AssertionError("the factory is set before anything is accepted")
        if len(self._waiting) >= self._half_open:
            next(iter(self._waiting)).cut()
        return Incoming(self.make(), self._waiting, self._seconds)

    def __len__(self) -> int:
        """How many connections have not sent a whole request yet."""
        return len(self._waiting)


def incoming_of(request: web.Request) -> Incoming | None:
    """The connection that this request came by; None when it is gone."""
    transport = request.transport
    protocol = transport.get_protocol() if transport is not None else None
    return protocol if isinstance(protocol, Incoming) else None
