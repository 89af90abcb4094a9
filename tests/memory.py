"""What a process has taken of the machine."""

from __future__ import annotations

import gc
import importlib
import os
from typing import Any

_psutil: Any = importlib.import_module("psutil")  # it ships no types


def resident() -> int:
    """Bytes of this process in memory, once what is garbage is gone."""
    gc.collect()
    return int(_psutil.Process(os.getpid()).memory_info().rss)


def descriptors(pid: int) -> int:
    """File descriptors that this process has open."""
    return int(_psutil.Process(pid).num_fds())
