"""One worker, as its supervisor sees it."""

from __future__ import annotations

import os
import signal
import socket
import time

from sidecar.server.line import READY


class WorkerProcess:
    """A process that was forked; `look` reaps it. Its line is closed with it."""

    def __init__(self, number: int, pid: int, line: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.line = line
        self.code: int | None = None
        """Its exit status, or the negative number of the signal that ended it; None while it lives."""
        self.ready_at: float | None = None
        """Since when it accepts sockets (monotonic)."""
        self.heard_at = time.monotonic()
        self.leaving = False
        """It was told to go."""
        self.hung_up = False

    @property
    def ended(self) -> bool:
        return self.code is not None

    @property
    def ready(self) -> bool:
        return self.ready_at is not None and self.code is None

    def served(self, now: float) -> float:
        """Seconds for which it has accepted sockets."""
        return now - self.ready_at if self.ready_at is not None else 0.0

    def hear(self) -> None:
        """Takes in what it has said since."""
        while not self.hung_up:
            try:
                words = self.line.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                words = b""
            if not words:
                self.hung_up = True
                return
            self.heard_at = time.monotonic()
            if READY in words and self.ready_at is None:
                self.ready_at = self.heard_at

    def look(self) -> None:
        """Whether it has ended."""
        if self.code is not None:
            return
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else in this process reaped it
            pid, status = self.pid, 1 << 8
        if pid == self.pid:
            self.code = os.waitstatus_to_exitcode(status)
            self.line.close()

    @property
    def how(self) -> str:
        """How it ended: `3`, `SIGKILL`."""
        if self.code is None or self.code >= 0:
            return str(self.code)
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal-{-self.code}"

    def leave(self, *words: bytes) -> None:
        """Tells it to go, or to prepare for it."""
        self.leaving = True
        try:
            self.line.send(b"".join(words), socket.MSG_DONTWAIT)
        except OSError:
            pass  # closed, or full because nobody reads: it is killed in time

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
