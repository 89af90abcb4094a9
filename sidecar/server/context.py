"""What the server files share: the parts, the connections, the settings of the door. One owner opens it: `running`."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from sidecar.config import Config
from sidecar.connections import Registry
from sidecar.feed import Feeds
from sidecar.ids import UserHash
from sidecar.outbox import OutboxWorker
from sidecar.parts import Parts
from sidecar.plugins import Plugins
from sidecar.server.handshake import Doorkeeper
from sidecar.server.turns import Turns
from sidecar.server.wire import WebSocketWire
from sidecar.slots.authenticator import Session
from sidecar.watchdog import Watchdog

_PLACES_AT_ONCE = 200
"""Ten thousand sockets that come back at once take many seconds, however it is done. In turn each waits for its own; all at once
each call of any of them would wait for those of all, until its deadline."""


@dataclass(eq=False, slots=True)
class OpenSession:
    """The session of one connection, and when it is looked at next (loop time, seconds)."""

    session: Session
    next_check: float
    warned: bool = False


@dataclass
class Context:
    config: Config
    parts: Parts
    plugins: Plugins
    registry: Registry
    feeds: Feeds
    worker: OutboxWorker
    watchdog: Watchdog
    door: Doorkeeper
    digest_key: bytes
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    addresses: Counter[str] = field(default_factory=Counter)
    """Open sockets by what limits count by, from before the upgrade on."""
    sessions: dict[str, OpenSession] = field(default_factory=dict)
    """By connection id."""
    opening: set[WebSocketWire] = field(default_factory=set)
    """Sockets that were accepted and are not ready yet."""
    turns: Turns = field(default_factory=Turns)
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_PLACES_AT_ONCE))
    """For those that have signed in and ask cache and store for the rest of what makes a connection."""
    stopping: bool = False
    cut_off: bool = False
    """The cache that others share cannot be reached from here: whoever comes is sent to them."""

    def keep(self, task: asyncio.Task[None]) -> None:
        """Keeps a task until it is done."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @property
    def process(self) -> bytes:
        """What this process is called: the note of the places that its connections have."""
        return self.worker.holder.encode()

    def users_sessions(self, user: UserHash) -> list[OpenSession]:
        """The sessions of a person's connections here."""
        return [self.sessions[c.id] for c in self.registry.of(user) if c.id in self.sessions]
