"""One process of the sidecar, without sockets: the real use cases, feed, connections and outbox on real plugins."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from plugins.encryption.local import Local
from plugins.persistence.sqlite import Sqlite
from sidecar import Cache, Cipher, Limits, Store, Surroundings
from sidecar.config import Config
from sidecar.connections import Connection, Registry
from sidecar.errors import Unavailable
from sidecar.feed import Feeds
from sidecar.listeners import Listener
from sidecar.metrics import Metrics
from sidecar.outbox import OutboxWorker
from sidecar.parts import Caller, Parts
from sidecar.server.context import Context
from sidecar.server.socket import Socket
from sidecar.settings import Settings
from tests.model.caches import Caches
from tests.model.clock import VirtualLoop, Wall
from tests.model.hooked import Hooked, Listening
from tests.model.link import Link
from tests.model.weather import DistantChats, DistantCipher, DistantOutbox, DistantStore, Keyring, QuickCipher, Weather

LIMITS = Limits(active=2, events_kept=60, messages_kept=4)
"""Small, so that chats are evicted, logs trimmed and messages left to the store within a run."""
SETTINGS = Settings(cache=LIMITS, sync_recent=2)
CONFIG = Config.model_validate(
    {
        "data_dir": ".",
        "auth": {"use": "dev"},
        "encryption": {"use": "local"},
        "cache": {"use": "memory"},
        "persistence": {"use": "sqlite"},
        "limits": {"frames_per_second": 100_000, "burst": 1_000_000},
    }
)
_FOR_GOOD = 10**9


@dataclass(frozen=True)
class Ground:
    """What a process stands on, and what outlives it."""

    folder: Path
    loop: VirtualLoop
    wall: Wall
    weather: Weather
    metrics: Metrics
    caches: Caches
    keyring: Keyring | None
    """None: `encryption.local`, which keeps a key file."""


class Life:
    """One process. What it holds in memory ends with it."""

    def __init__(self, ground: Ground, number: int) -> None:
        self.ground = ground
        self.number = number
        surroundings = Surroundings(ground.folder, "127.0.0.1")
        self.plugin = ground.caches.plugin(ground.wall)
        self.sqlite = Sqlite(Sqlite.Options(), surroundings)
        self.local = Local(Local.Options(), surroundings) if ground.keyring is None else None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        ground, weather = self.ground, self.ground.weather
        await self.plugin.__aenter__()
        await self.sqlite.__aenter__()
        if self.local is not None:
            await self.local.__aenter__()
            cipher: Cipher = await self.local.provide_encryption()
        else:
            cipher = QuickCipher(ground.keyring or Keyring())
        cache = await self.plugin.provide_cache()
        self.store: Store = await self.sqlite.provide_persistence()
        self.cipher = cipher
        self.cache = cache
        distant = Cache(DistantChats(cache.chats, weather), DistantOutbox(cache.outbox, weather), cache.leases)
        distant.chats.limits = LIMITS
        self.parts = Parts(
            auth=cast("Any", None),
            cipher=DistantCipher(cipher, weather),
            cache=distant,
            store=DistantStore(self.store, weather),
            plugins=Hooked(self.plugin, self.sqlite, weather),
            settings=SETTINGS,
            metrics=ground.metrics,
            now=ground.wall.now,
        )
        self.registry = Registry()
        self.feeds = Feeds(self.parts, self.registry)
        listener = cast("Listener", Listening(self.sqlite, weather))
        self.worker = OutboxWorker(self.parts, [listener], f"life-{self.number}")
        self.feeds.on_entry = self.worker.wake
        await self.worker.__aenter__()
        await self.feeds.__aenter__()
        self.context = Context(
            config=CONFIG,
            parts=self.parts,
            plugins=cast("Any", None),
            registry=self.registry,
            feeds=self.feeds,
            worker=self.worker,
            watchdog=cast("Any", None),
            door=cast("Any", None),
            digest_key=b"",
        )

    def accept(self, link: Link) -> None:
        """A client comes."""
        task = self.ground.loop.create_task(self._serve(link))
        link.served = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: Link) -> None:
        try:
            position = await self.feeds.join(link.user)
        except Unavailable:
            link.break_off(0)
            return
        caller = Caller(link.user, link.device, link.id, None)
        connection = Connection(caller, link, _FOR_GOOD, position)
        self.registry.add(connection)
        link.greet(position.epoch)
        try:
            await Socket(
                self.context, connection, cast("web.WebSocketResponse", link), cast("web.Request", None), "model"
            ).serve()
        finally:
            connection.closed = True
            if self.registry.remove(connection):
                self.feeds.leave(link.user)
                try:
                    await self.parts.cache.outbox.hurry(link.user)
                    self.worker.wake()
                except Unavailable:
                    pass

    async def kill(self) -> None:
        """Nothing more is written from here on, and what was under way ends where it stands."""
        await self.plugin.__aexit__(None, None, None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.feeds.__aexit__(None, None, None)
        await self.worker.__aexit__(None, None, None)
        await self.sqlite.__aexit__(None, None, None)
        if self.local is not None:
            await self.local.__aexit__(None, None, None)
