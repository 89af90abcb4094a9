"""Names of Unix sockets, for whoever binds one and whoever connects to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST_PATH = 100
"""Bytes of a socket's path that every platform takes (`sun_path` is 104 on macOS and 108 on Linux)."""


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for a socket that is short enough to bind or connect to, however deep its folder lies. Raises `OSError`."""
    if len(os.fsencode(path)) <= _LONGEST_PATH or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
