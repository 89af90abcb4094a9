"""One run from its beginning to its file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from bench import first_sync, idle, many_chats, throughput
from bench.plan import Plan
from bench.table import Row, markdown

Part = Callable[[Plan, Path, int | None], Awaitable[list[Row]]]
PARTS: Mapping[str, Part] = MappingProxyType(
    {"a": throughput.measure, "b": idle.measure, "c": first_sync.measure, "d": many_chats.measure}
)
_PACKAGES = ("aiohttp", "uvloop", "orjson", "jiter", "cryptography", "pydantic")

_NOTES = """\
ours: the sidecar with the embedded plugins, journal on. beside: in (a) and (b) a bare aiohttp loop (`bench/bare.py`) that
does the same parse, seal, open and sends; in (d) the same server with the fewest chats. Medians of rounds that alternate
(A B, B A), with least and most in brackets; ratios are taken round by round.

(a) Closed loop: each person has two devices and sends the next draft of 2 KB when the first device has its answer and the
second has the draft. (c) A start of the server for each sync, so neither cache nor keys are warm; the files are in the
system's memory. Each chat has a title and a draft of 2 KB; the time runs from the question of a socket that has signed in.
(d) Chats with a message each, in the store, of one person on a server of its own; three edits under way at once. Spread
over all chats, each draft meets a chat that is not in the cache: it is read from the store, its key from the key file, and
it is written behind on its own.
"""


def pin() -> int | None:
    """Keeps this process, the load generator, off the server's core. The server's core, None where there is only one."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, {cores[1]})
    return cores[0]


async def run(plan: Plan, results: Path, parts: Sequence[str] = tuple(PARTS)) -> tuple[Path, list[Row]]:
    """Measures, and writes a file into `results`; its path, and the rows."""
    began, started = datetime.now().astimezone(), time.perf_counter()
    load = os.getloadavg()[0]
    core = pin() if plan.pinned else None
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder:
        for part in parts:
            print(f"({part}) …", file=sys.stderr, flush=True)
            rows += await PARTS[part](plan, Path(folder), core)
    heading = [
        f"# Bench of {began:%Y-%m-%d %H:%M} ({plan.name})",
        "",
        f"{_machine()}; load before the run {load:.2f}; "
        + (f"server on core {core}, load generator on another" if core is not None else "no cores of their own")
        + f"; {time.perf_counter() - started:.0f} s in all.",
    ]
    text = "\n".join([*heading, "", markdown(rows), "", _NOTES])
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{began:%Y-%m-%d-%H%M%S}.md"
    path.write_text(text, encoding="utf-8")
    print(text)
    return path, rows


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, {packages}"
