"""The line between a worker and its supervisor: a pair of sockets that also tells each of them when the other is gone.

The worker says that it accepts (`READY`) and, every second, that its loop turns (`ALIVE`). The supervisor says `QUIET`
(accept nothing more), `STOP` (and go: others go on) or `LAST` (go, and nobody goes on after you). The end of the
supervisor is `LAST` too, so that no worker outlives it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import structlog

READY, ALIVE = b"r", b"."
QUIET, STOP, LAST = b"q", b"s", b"l"

ALIVE_SECONDS = 1.0

log = structlog.get_logger("sidecar.server")


class Line:
    """The worker's end. An async context manager, entered for as long as the worker lives."""

    def __init__(self, end: socket.socket, seconds: float) -> None:
        """`seconds`: how long an orphan may take for its end."""
        self.quiet = asyncio.Event()
        self.stop = asyncio.Event()
        self.last = False
        """Nobody goes on after this worker: what is due has to be delivered now."""
        self._end = end
        self._seconds = seconds
        self._living: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Line:
        loop = asyncio.get_running_loop()
        # A thread of its own: the end of the supervisor is noticed even while something blocks the loop.
        threading.Thread(target=self._listen, args=(loop,), name="line", daemon=True).start()
        self._living = loop.create_task(self._live())
        return self

    async def __aexit__(self, *_: object) -> None:
        # The socket stays open: its end is what tells the supervisor that the process is gone, and the thread reads it.
        if self._living is not None:
            self._living.cancel()
            await asyncio.gather(self._living, return_exceptions=True)

    def ready(self) -> None:
        """This worker accepts sockets."""
        self._say(READY)

    async def _live(self) -> None:
        while True:
            self._say(ALIVE)
            await asyncio.sleep(ALIVE_SECONDS)

    def _say(self, word: bytes) -> None:
        try:
            self._end.send(word, socket.MSG_DONTWAIT)
        except OSError:
            pass  # it is gone, which the thread notices, or was stopped and has enough to read when it goes on

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while words := self._receive():
            for word in words:
                self._pass_on(loop, bytes([word]))
        self._pass_on(loop, b"")
        time.sleep(self._seconds)
        os._exit(1)  # what blocks it would keep it for good, and the port with it

    def _receive(self) -> bytes:
        try:
            return self._end.recv(64)
        except OSError:
            return b""

    def _pass_on(self, loop: asyncio.AbstractEventLoop, word: bytes) -> None:
        try:
            loop.call_soon_threadsafe(self._heard, word)
        except RuntimeError:
            pass  # the loop is closed: this process is ending

    def _heard(self, word: bytes) -> None:
        if word == b"":
            log.warning("supervisor_gone")
        self.quiet.set()
        if word in (b"", LAST):
            self.last = True
        if word != QUIET:
            self.stop.set()
