"""An audit device that can be blocked: a named pipe."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

_PAGE = 4096
"""The least that the kernel keeps of what nobody has read, in bytes."""


class AuditPipe:
    """A named pipe that is read to the end, until `block()`. A Vault that logs to it answers nothing while it is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        # Opened for both, so that neither side waits for the other, and Vault never finds it without a reader.
        self._end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(self._end, fcntl.F_SETPIPE_SZ, _PAGE)
        self._turn = threading.Lock()
        self._blocked = False
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, name="audit pipe", daemon=True)
        self._reader.start()

    def block(self) -> None:
        """Full from now on: the next line that Vault writes waits."""
        with self._turn:
            self._blocked = True
            for size in (_PAGE, 1):
                self._fill(size)

    def _fill(self, size: int) -> None:
        try:
            while True:
                os.write(self._end, b"\n" * size)
        except BlockingIOError:
            pass

    def unblock(self) -> None:
        """What waits is written."""
        with self._turn:
            self._blocked = False

    def close(self) -> None:
        self._over.set()
        self._reader.join()
        os.close(self._end)

    def _read(self) -> None:
        while not self._over.wait(0.002):
            with self._turn:
                try:
                    while not self._blocked and os.read(self._end, 65_536):
                        pass
                except BlockingIOError:
                    pass
