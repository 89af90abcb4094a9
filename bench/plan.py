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
    """(d), (i) Cost of a draft with many chats over the cost with few, at most."""
    over_hocuspocus: float = 2.0
    """(e) Drafts per second with Redis, ours over Hocuspocus', at least; from so many people on: """
    over_hocuspocus_from: int = 32
    over_bare_redis: float = 0.7
    """(e) Drafts per second with Redis, ours over the bare loop's, at least."""
    generator: float = 0.85
    """(e), (f) Share of its core that the load generator may use: beyond it, it may be what was measured."""
    steady: float = 0.010
    """(f) 99th percentile in seconds at the fixed rate on one process, less than."""
    across: float = 0.020
    """(f) The same with the two devices on two processes."""
    back: float = 30.0
    """(h) Seconds until the last socket is back, at most."""
    over_raw_vault: float = 0.7
    """(j) Chats begun per second over entries that a bare loop makes in the same Vault, at least; at so many people: """
    over_raw_vault_at: int = 32
    over_local: float = 0.95
    """(j) Drafts per second with the key in memory, over those with encryption.local, at least."""
    over_raw_directus: float = 0.8
    """(k) Messages that reach Directus per second over rows that a bare loop makes in the same Directus, at least."""
    directus_calls: float = 50.0
    """(k) Directus calls per second while everybody comes back, at most."""


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
    peer_rounds: int = 5
    """(e)"""
    warm_people: int = 33
    warm_seconds: float = 5.0
    """(e), (f) Before anything is measured."""
    steady_rate: float = 1000.0
    """(f) Drafts per second, of so many people together."""
    steady_people: int = 128
    steady_rounds: int = 3
    steady_seconds: float = 5.0
    reconnects: tuple[int, ...] = (5000, 10_000)
    """(h) Sockets; the first number has the goal."""
    shared_chats: tuple[int, ...] = (100, 1000, 10_000)
    """(i) As `chats`, with the shared cache."""
    directus_people: int = 170
    """(k) With so many chats each, each of which has one message under way: """
    directus_chats: int = 3
    directus_rounds: int = 3
    directus_seconds: float = 5.0
    directus_sync_chats: int = 500
    directus_syncs: int = 3
    directus_reconnects: int = 5000
    pinned: bool = True
    """Server and load generator on a core of their own, where the machine has two."""
    goals: Goals = Goals()


FULL = Plan("full")
QUICK = Plan(
    "quick",
    rounds=3,
    seconds=0.8,
    socket_rounds=1,
    syncs=3,
    chats=(10, 1000, 10_000),
    chat_rounds=2,
    chat_seconds=0.8,
    peer_rounds=2,
    warm_seconds=2.0,
    steady_rounds=1,
    steady_seconds=2.0,
    reconnects=(5000,),
    directus_rounds=1,
    directus_seconds=3.0,
    directus_syncs=1,
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
    peer_rounds=1,
    warm_people=3,
    warm_seconds=0.05,
    steady_rate=50.0,
    steady_people=2,
    steady_rounds=1,
    steady_seconds=0.2,
    reconnects=(20,),
    shared_chats=(3, 6),
    directus_people=2,
    directus_chats=2,
    directus_rounds=1,
    directus_seconds=0.3,
    directus_sync_chats=3,
    directus_syncs=1,
    directus_reconnects=20,
    pinned=False,
)
"""For the smoke test: it shows that every row is made, its figures mean nothing."""
