"""How much is measured: the numbers of a full run, of a quick one, and of a smoke test."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Goals:
    """What the issue asks for."""

    ratio: float = 0.5
    """(a) Drafts per second, ours over the bare loop's, at least."""
    idle_bytes: int = 20 * KIB
    """(b) Memory per idle authenticated socket, at most."""
    first_frame: float = 0.050
    """(c) Seconds until the first frame of a sync, less than."""
    largest_frame: int = MIB
    """(c) Bytes of any frame of a sync, at most."""
    flat: float = 1.2
    """(d) Cost of a draft with many chats over the cost with few, at most."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Seconds and counts; rounds of what is compared alternate."""

    name: str
    people: tuple[int, ...] = (1, 32, 128)
    rounds: int = 7
    seconds: float = 3.0
    """Of one round of drafts, after as much as a quarter of it to warm up."""
    sockets: int = 2000
    socket_rounds: int = 3
    settle: float = 1.5
    """Before memory is asked for: sign-ins leave work behind."""
    sync_chats: int = 1000
    sync_messages: int = 20
    syncs: int = 7
    chats: tuple[int, ...] = (10, 1000, 10_000)
    """The first is what the others are compared with."""
    chat_rounds: int = 5
    chat_seconds: float = 3.0
    pinned: bool = True
    """Server and load generator on a core of their own, where the machine has two."""
    goals: Goals = Goals()


FULL = Plan("full")
QUICK = Plan(
    "quick", rounds=3, seconds=0.8, socket_rounds=1, syncs=3, chats=(10, 1000, 10_000), chat_rounds=2, chat_seconds=0.8
)
TINY = Plan(
    "tiny",
    people=(1, 2),
    rounds=1,
    seconds=0.1,
    sockets=60,
    socket_rounds=1,
    settle=0.05,
    sync_chats=3,
    sync_messages=2,
    syncs=1,
    chats=(3, 6),
    chat_rounds=1,
    chat_seconds=0.1,
    pinned=False,
)
"""For the smoke test: it shows that every row is made, its figures mean nothing."""
