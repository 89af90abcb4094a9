"""Files that only their owner reads, and writes that are on the disk when they return. Everything here blocks."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidecar import StartRefused, Unavailable

_LOCK_DEADLINE = 10.0
_COUNTER_BYTES = 8
_COUNTER_MOST = 2**64 - 1


class Counter:
    """A number that all processes of this host share, in the first bytes of a lock file; whoever holds the lock may raise it.

    Reading it costs about a microsecond. It says that something happened; after a restart any value will do.
    """

    def __init__(self, path: Path) -> None:
        """The caller holds the lock."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def read(self) -> int:
        return int.from_bytes(os.pread(self._descriptor, _COUNTER_BYTES, 0), "big")

    def raise_(self) -> int:
        """The next value, which every process sees from here on. Raises `OSError`."""
        value = (self.read() + 1) & _COUNTER_MOST
        write_all(self._descriptor, value.to_bytes(_COUNTER_BYTES, "big"), 0)
        return value

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file at `path` among all processes of this host. `Unavailable` when another holds it for 10 s.

    The file is opened anew each time: after a fork, parent and child would otherwise hold one and the same lock.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline, pause = time.monotonic() + _LOCK_DEADLINE, 0.0005
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Not a blocking flock: a process that was stopped while holding it would hang the threads of all the others.
                if time.monotonic() > deadline:
                    raise Unavailable("encryption", f"another process holds {path.name}", 1.0) from None
                time.sleep(pause)
                pause = min(pause * 2, 0.01)
        yield
    finally:
        os.close(descriptor)


def refuse_if_open_to_others(path: Path) -> None:
    """`StartRefused` when group or others may do anything with the file."""
    mode = path.stat().st_mode
    if mode & 0o077:
        raise StartRefused("encryption", f"{path} is open to others (mode {mode & 0o777:04o}): run chmod 600 {path}")


def write_file(path: Path, content: bytes) -> None:
    """A file with this content, 0600, instead of any that has this name, whole or not at all. The caller holds the lock."""
    being_written = path.with_name(f"{path.name}.new")
    being_written.unlink(missing_ok=True)  # left by one that was killed
    descriptor = os.open(being_written, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, content, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        being_written.rename(path)
    except BaseException:
        being_written.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_all(descriptor: int, content: bytes, at: int) -> None:
    """Writes everything at this place of the file, or raises `OSError`."""
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, at)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left, at = left[written:], at + written


def read_from(descriptor: int, at: int) -> bytes:
    """Everything from this place of the file to its end."""
    pieces = []
    while piece := os.pread(descriptor, 1 << 20, at):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
