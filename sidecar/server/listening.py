"""Sockets that are listened on, with a deadline for whoever connects and says nothing (threats T19, T20)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aiohttp import web

from sidecar.errors import StartRefused

_HANDSHAKE_SECONDS = 5.0
_HALF_OPEN = 4096
"""TCP connections without a whole request that may be open at once."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `StartRefused` naming what to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        why = error.strerror or type(error).__name__
        raise StartRefused(
            "server", f"cannot listen on {host}:{port} ({why}); change server.host or server.port"
        ) from None
    listener.setblocking(False)
    return listener


class Handshakes:
    """Makes aiohttp's protocol for each connection, and cuts those that send no whole request in time.

    aiohttp itself waits for good, so that connections which drip their headers would pile up.
    """

    def __init__(self) -> None:
        self.make: Callable[[], web.RequestHandler] | None = None
        """aiohttp's factory; set before the first connection."""
        self._waiting: dict[int, web.RequestHandler] = {}

    def __call__(self) -> asyncio.Protocol:
        if self.make is None or len(self._waiting) >= _HALF_OPEN:
            return _Refusing()
        handler = self.make()
        self._waiting[id(handler)] = handler
        asyncio.get_running_loop().call_later(_HANDSHAKE_SECONDS, self._late, id(handler))
        return handler

    def arrived(self, request: web.Request) -> None:
        """A whole request has come."""
        self._waiting.pop(id(request.protocol), None)

    def _late(self, number: int) -> None:
        handler = self._waiting.pop(number, None)
        if handler is not None and handler.transport is not None:
            handler.transport.abort()


class _Refusing(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.abort()
