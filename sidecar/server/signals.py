"""Signals for a loop that waits with `select`, in a process that forks."""

from __future__ import annotations

import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Self

TAKEN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """While entered, the `TAKEN` ones do nothing but wake whoever waits for this to become readable. Main thread only."""

    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup = -1

    def __enter__(self) -> Self:
        for end in (self._here, self._there):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._there.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, nothing) for number in TAKEN}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._here.close()
        self._there.close()

    def fileno(self) -> int:
        return self._here.fileno()

    def take(self) -> set[int]:
        """Those that came since."""
        came: set[int] = set()
        try:
            while numbers := self._here.recv(256):
                came.update(numbers)
        except BlockingIOError:
            pass
        return came


def block() -> None:
    """From now on they wait: between a fork and the end of its preparations no process takes what was meant for the other."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)


def unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TAKEN)


def nothing(number: int, frame: FrameType | None) -> None:
    """A handler. Unlike an ignored signal, a program that is started from here does not inherit it."""
