"""One run from its beginning to its file."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from bench import (
    directus_home,
    first_sync,
    idle,
    keys,
    many_chats,
    on_directus,
    reconnect,
    steady,
    throughput,
    with_redis,
)
from bench.cores import Cores, assign, on_core
from bench.hocuspocus import installing
from bench.missing import Missing
from bench.plan import Plan
from bench.redis_server import described
from bench.table import Row, markdown


@dataclass(frozen=True, slots=True)
class Part:
    """A letter's worth of the run."""

    name: str
    measure: Callable[[Plan, Path, Cores], Awaitable[list[Row]]]


PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "a": Part("embedded", throughput.measure),
        "b": Part("embedded-idle", idle.measure),
        "c": Part("first-sync", first_sync.measure),
        "d": Part("embedded-chats", many_chats.measure),
        "e": Part("peers", with_redis.measure),
        "f": Part("steady", steady.measure),
        "g": Part("idle", idle.measure_shared),
        "h": Part("reconnect", reconnect.measure),
        "i": Part("chats", many_chats.measure_shared),
        "j": Part("keys", keys.measure),
        "k": Part("directus", on_directus.measure),
    }
)
_PACKAGES = ("aiohttp", "uvloop", "orjson", "jiter", "cryptography", "pydantic", "redis", "hiredis")

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

(e) to (i) have the cache in Redis (append-only file, fsync every second), each service a Redis of its own. Where the machine
has only two cores, the processes of a service and its Redis share one of them, as Hocuspocus has it to itself; so two
processes show what the way between processes costs, not what a second core brings.
(e) As (a): a draft counts when it is accepted, sealed, in Redis, and on the second device; with two processes a person's
devices are on different ones. Hocuspocus keeps its documents in memory, seals nothing; an edit is a `Y.Map.set` of the same
text, and counts when the first device has its `SyncStatus` and the second the update. The same light load generator
(`bench/link.py`: bare WebSocket frames, no library) drives all of them, and speaks Yjs to Hocuspocus with messages written
by hand, which a real provider read back at the end. The row under its own providers is what Node clients with
`@hocuspocus/provider` get out of the same server: there the load generator is the limit. The bare loop seals, sends one
EVALSHA for each draft, those that wait together in one pipeline, then the answer and the event.
CPU: time per draft of the servers + of Redis; shares of a core: servers + Redis + others' work on the servers' cores / load
generator. How one sees that the load generator is not the limit: the share of its own core that it uses has a goal; what it
leaves it waited for the server. Where others' work took much, the rows by CPU time are nearer to what a quiet machine gives.
(f) Open loop: the drafts come evenly, each person's on a fixed beat; the latency counts from when a draft was due, also if it
had to wait for the answer to the one before. The load generator's timers are of whole milliseconds.
(h) Two sockets a person, each with a chat and its draft. The server is killed (-9) and started again at once; every socket
comes back as a client does (full jitter from 0.5 s, doubling), signs in, and asks for a sync from its cursor. From the kill
until the last one has its `complete`. Refused attempts count as errors once the server accepts sockets again.
(i) As (d); the cost is that of the server and of Redis together.
(j) One process with the embedded cache and store, and a Vault that keeps its data in files; where there are only two cores
it shares the load generator's, for the same Vault with the same share of a core is to serve both. A chat begins when its key
is made and confirmed, its draft sealed, kept and answered; the bare loop makes entries of the same size in the same Vault,
over as many keep-alive connections as there are people, and does nothing else. Where others' work took much of the cores, the
row by CPU time says more: it is what a quiet machine would divide by. Edits as in (a), the cold sync as in (c).
(k) One process with the embedded cache and keys; people sign in by a real Directus, whose SQLite file has the chats. Directus
has the core that Vault has in (j). A message counts when its sender has heard `delivered`, which is after Directus said that the
row is there; each chat has one under way. Such messages run ahead of their chat's row, which is marked at the
second. A person has as many chats under way as the cache keeps for one. The bare loop creates rows copied from those
that the sidecar wrote, 100 a call, as many calls at once as the sidecar makes; for first messages the chat is nested in its
message, and 50 of both are a call. No sidecar listens meanwhile; in the rows with `changes: notices` none listens to
Directus either. The cold sync as in (c), and the calls that it made of
Directus. Coming back: the server is killed and started again, and everybody signs in with an access token and the device from
before (full jitter, doubling, or as long as the server asks for); a front before Directus counts calls. With Directus' SECRET the
sidecar checks tokens itself.
"""


async def run(plan: Plan, results: Path, parts: Sequence[str] = tuple(PARTS)) -> tuple[Path, list[Row]]:
    """Measures, and writes a file into `results`; its path, and the rows."""
    began, started = datetime.now().astimezone(), time.perf_counter()
    load = os.getloadavg()[0]
    cores = assign() if plan.pinned else Cores()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sidecar-bench-") as folder, on_core(cores.generator):
        for part in parts:
            print(f"({part}) {PARTS[part].name} …", file=sys.stderr, flush=True)
            rows += await PARTS[part].measure(plan, Path(folder), cores)
    heading = [
        f"# Bench of {began:%Y-%m-%d %H:%M} ({plan.name})",
        "",
        f"{_machine()}. {cores}. Load before the run {load:.2f}; {time.perf_counter() - started:.0f} s in all.",
    ]
    text = "\n".join([*heading, "", markdown(rows), "", _NOTES])
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{began:%Y-%m-%d-%H%M%S}.md"
    path.write_text(text, encoding="utf-8")
    print(text)
    return path, rows


def _machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    system = f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}"
    services = (described, directus_home.described, lambda: installing.find().versions)
    return ", ".join([system, packages, *(_named(each) for each in services)])


def _named(asked: Callable[[], str]) -> str:
    try:
        return asked()
    except Missing as missing:
        return str(missing)
