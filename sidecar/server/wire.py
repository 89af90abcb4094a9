"""One aiohttp WebSocket as a connection uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import WSMsgType, web

from sidecar.server.listening import Incoming

_CLOSE_SECONDS = 5.0
"""For the peer to answer a close frame; then the transport is cut."""


class WebSocketWire:
    """Writes frames to an accepted WebSocket. Who writes waits in `Connection`: here is what the transport has not got rid of."""

    __slots__ = ("_closing", "_incoming", "_spawn", "_ws", "code")

    def __init__(
        self,
        ws: web.WebSocketResponse,
        incoming: Incoming,
        spawn: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._ws = ws
        self._incoming = incoming
        self._spawn = spawn
        self._closing: asyncio.Task[None] | None = None
        self.code: int | None = None
        """The code with which this side closes, whether or not the peer ever heard of it."""

    def write(self, frame: bytes) -> None:
        self._send(frame, WSMsgType.TEXT)

    def ping(self) -> None:
        self._send(b"", WSMsgType.PING)

    def _send(self, frame: bytes, kind: WSMsgType) -> bool:
        # Without compression aiohttp hands the frame to the transport before it waits for anything: one step is enough.
        step = self._ws.send_frame(frame, kind)
        try:
            step.send(None)
        except StopIteration:
            return True
        except (ConnectionError, RuntimeError):
            return False  # the socket is gone, which its reader notices
        step.close()
        return True

    def backlog(self) -> int:
        return self._incoming.backlog()

    async def write_waiting(self, frame: bytes) -> None:
        if not self._send(frame, WSMsgType.TEXT):
            raise ConnectionResetError("the socket is closed")
        # Not by aiohttp's own wait: whoever is cancelled in that cancels all who wait there after it.
        await self._incoming.drained()

    def close(self, code: int, reason: str) -> None:
        if self._closing is None:
            self.code = code
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
        finally:
            if self._incoming.backlog():
                self._incoming.cut()  # a reader that takes nothing would keep what it was sent
