"""One aiohttp WebSocket as a connection uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import WSMsgType, web

_CLOSE_SECONDS = 5.0
"""For the peer to answer a close frame; then the transport is cut."""


class WebSocketWire:
    """Writes frames to an accepted WebSocket. What waits in it is at most what aiohttp's writer lets wait (64 KiB and a frame)."""

    __slots__ = ("_closing", "_spawn", "_transport", "_ws")

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        spawn: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._ws = ws
        self._transport = transport
        self._spawn = spawn
        self._closing: asyncio.Task[None] | None = None

    def write(self, frame: bytes) -> None:
        self._send(frame, WSMsgType.TEXT)

    def ping(self) -> None:
        self._send(b"", WSMsgType.PING)

    def _send(self, frame: bytes, kind: WSMsgType) -> None:
        # Without compression aiohttp hands the frame to the transport before it waits for anything: one step is enough.
        step = self._ws.send_frame(frame, kind)
        try:
            step.send(None)
        except (StopIteration, ConnectionError, RuntimeError):
            return  # sent, or the socket is gone, which its reader notices
        step.close()

    def backlog(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    async def write_waiting(self, frame: bytes) -> None:
        try:
            await self._ws.send_frame(frame, WSMsgType.TEXT)
        except RuntimeError as error:
            raise ConnectionResetError("the socket is closed") from error

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(code, reason))
            self._spawn(self._closing)

    async def end(self) -> None:
        """Returns when the socket is closed: as `close` began to, or else with 1000."""
        if self._closing is None:
            await self._close(1000, "")
        else:
            # Its code is the one that counts: closing here as well would come before it, with another.
            await asyncio.wait([self._closing])

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._ws.close(code=code, message=reason.encode()[:120])
        except (TimeoutError, ConnectionError, RuntimeError):
            pass
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()  # a reader that takes nothing would keep what it was sent
