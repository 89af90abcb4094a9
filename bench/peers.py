"""The sidecar with the shared cache and those that it stands beside, each with a Redis of its own if it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from bench import crowd, services
from bench.cores import Cores
from bench.crowd import Crowd
from bench.drafts import Drafts
from bench.hocuspocus import installing
from bench.hocuspocus.installing import Hocuspocus
from bench.missing import Missing
from bench.service import Service
from bench.table import Row

Kind = Literal["one", "two", "bare", "hocuspocus"]
NAMES: Mapping[Kind, str] = MappingProxyType(
    {
        "one": "the sidecar in 1 process",
        "two": "the sidecar in 2 processes",
        "bare": "the bare loop with Redis",
        "hocuspocus": "Hocuspocus",
    }
)


@dataclass(frozen=True, slots=True)
class Peers:
    """Those that run; with a row for each that this machine lacks something for."""

    running: Mapping[Kind, Service]
    installed: Hocuspocus | None
    skipped: Sequence[Row]

    def crowd(self, kind: Kind, people: int, drafts: Drafts) -> AbstractAsyncContextManager[Crowd]:
        """So many people on that one, with clients that speak its protocol."""
        opener = crowd.yjs if kind == "hocuspocus" else crowd.ours
        return Crowd.gathered(self.running[kind], people, drafts, opener)


def start(stack: ExitStack, part: str, folder: Path, cores: Cores) -> Peers:
    """All that this machine has what they need for; they end with the stack."""
    running: dict[Kind, Service] = {}
    skipped: list[Row] = []
    installed: Hocuspocus | None = None

    def hocuspocus(home: Path) -> AbstractContextManager[Service]:
        nonlocal installed
        installed = installing.find()
        return services.hocuspocus(home, cores, installed)

    openers: Mapping[Kind, Callable[[Path], AbstractContextManager[Service]]] = {
        "one": partial(services.ours, cores=cores),
        "two": partial(services.ours, cores=cores, processes=2),
        "bare": partial(services.bare_redis, cores=cores),
        "hocuspocus": hocuspocus,
    }
    for kind, opener in openers.items():
        try:
            running[kind] = stack.enter_context(opener(folder / f"{part}-{kind}"))
        except Missing as missing:
            skipped.append(Row.left_out(part, NAMES[kind], missing))
    return Peers(running, installed, skipped)
