"""A sidecar in this process, without sockets: the real use cases, feed, connections and outbox on real plugins.

`World` is what outlives a process: files, keys, the clock, the network. `Life` is one process, from its start to its kill.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast

import orjson
from aiohttp import WSMessage, WSMsgType, web

from plugins.cache.memory import Memory
from plugins.encryption.local import Local
from plugins.persistence.sqlite import Sqlite
from sidecar import Cache, ChatId, ChatInDB, Cipher, ConnectionId, DeviceId, Limits, Store, Surroundings, UserHash
from sidecar.config import Config
from sidecar.connections import Connection, Registry
from sidecar.documents import Document
from sidecar.errors import Unavailable
from sidecar.feed import Feeds
from sidecar.listeners import Listener
from sidecar.metrics import Metrics
from sidecar.outbox import OutboxWorker
from sidecar.parts import Caller, Parts
from sidecar.records import Author, Deleted, MessageInDB, milliseconds
from sidecar.server.context import Context
from sidecar.server.socket import Socket
from sidecar.settings import Settings
from sidecar.sync_pages import SyncAnswer
from tests.model.clock import VirtualLoop
from tests.model.weather import (
    DistantChats,
    DistantCipher,
    DistantOutbox,
    DistantStore,
    Keyring,
    QuickCipher,
    Weather,
)

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
_BORN = 1_790_000_000.0
_CLOSED = WSMessage(WSMsgType.CLOSED, None, None)
_FOR_GOOD = 10**9


class Reader(Protocol):
    """The client's end of a link."""

    def ready(self, epoch: str) -> None: ...
    def receive(self, frame: bytes) -> None: ...
    def cut_off(self) -> None: ...


class Link:
    """One socket and its way through the network: in order both ways, late, and cut at any moment."""

    def __init__(self, world: World, reader: Reader, user: UserHash, device: str, number: int) -> None:
        self.user = user
        self.device = DeviceId(device)
        self.id = ConnectionId(f"connection-{number}")
        self._world = world
        self._reader: Reader | None = reader
        self._up: deque[str] = deque()
        self._down: deque[bytes] = deque()
        self._last_up = self._last_down = 0.0
        self._inbox: asyncio.Queue[WSMessage] = asyncio.Queue()
        self._closing = False
        self.served: asyncio.Task[None] | None = None

    # -- the client's end ----------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """A frame from the client."""
        self._up.append(frame.decode())
        self._last_up = self._world.later(self._last_up, self._arrive)

    def cut(self, arriving: int, lingering: float) -> None:
        """The client is gone. So many of its frames on the way still arrive; the server notices after so many seconds."""
        self._reader = None
        while len(self._up) > arriving:
            self._up.pop()
        self._world.loop.call_later(lingering, self._inbox.put_nowait, _CLOSED)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._up and not self._down

    def _arrive(self) -> None:
        if self._up:
            self._inbox.put_nowait(WSMessage(WSMsgType.TEXT, self._up.popleft(), None))

    # -- the server's end: the wire of a connection, and the socket that it is read from -------------------------------

    def write(self, frame: bytes) -> None:
        if self._reader is not None and not self._closing:
            self._down.append(frame)
            self._last_down = self._world.later(self._last_down, self._pass)

    def _pass(self) -> None:
        if not self._down:
            return
        frame = self._down.popleft()
        if self._reader is not None:
            if frame:
                self._reader.receive(frame)
            else:
                self.break_off(0)

    def backlog(self) -> int:
        return 0

    async def write_waiting(self, frame: bytes) -> None:
        self.write(frame)
        await self._world.weather.back()

    def ping(self) -> None:
        """A ping says nothing here: no link is silent for long."""

    def close(self, code: int, reason: str) -> None:
        self.write(b"")  # behind what was sent before
        self._closing = True
        self._inbox.put_nowait(_CLOSED)

    def break_off(self, arriving: int) -> None:
        """The server is gone; so many of its frames on the way still arrive."""
        reader = self._reader
        for _ in range(min(arriving, len(self._down))):
            frame = self._down.popleft()
            if frame and self._reader is not None:
                self._reader.receive(frame)
        self._down.clear()
        self._up.clear()
        self._reader = None
        self._inbox.put_nowait(_CLOSED)
        if reader is not None:
            reader.cut_off()

    async def receive(self) -> WSMessage:
        return await self._inbox.get()

    async def pong(self, message: bytes = b"") -> None:
        """Nobody pings here."""

    def greet(self, epoch: str) -> None:
        """`ready`."""
        if self._reader is not None:
            self._reader.ready(epoch)


class _Listening:
    """The store as the outbox tells it, in place of a loaded plugin."""

    name = "persistence"
    wants_plaintext = False

    def __init__(self, sqlite: Sqlite, weather: Weather) -> None:
        self._sqlite = sqlite
        self._weather = weather

    def handles(self, kind: str) -> bool:
        return True

    def needs_plaintext(self, kind: str) -> bool:
        return False

    async def deliver_draft(self, chat: ChatInDB, plaintext: Document | None) -> None:
        await self._weather.there("persistence")
        await self._sqlite.on_draft(chat)
        await self._weather.back()

    async def deliver_title(self, chat: ChatInDB, plaintext: str | None) -> None:
        await self._weather.there("persistence")
        await self._sqlite.on_title(chat)

    async def deliver_first_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document | None) -> None:
        await self._weather.there("persistence")
        await self._sqlite.on_first_message(chat, message)
        await self._weather.back()

    async def deliver_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document | None) -> None:
        await self._weather.there("persistence")
        await self._sqlite.on_message(chat, message)
        await self._weather.back()

    async def deliver_deleted(self, chat: Deleted) -> None:
        await self._weather.there("persistence")
        await self._sqlite.on_chat_deleted(chat)

    async def deliver_erased(self, user: UserHash) -> None:
        await self._sqlite.on_user_erased(user)


class _Hooked:
    """No guards; the lists of the two slots that have one."""

    guards_drafts = False
    guards_messages = False

    def __init__(self, memory: Memory, sqlite: Sqlite, weather: Weather) -> None:
        self._memory = memory
        self._sqlite = sqlite
        self._weather = weather

    async def guard_draft(self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document) -> None:
        raise AssertionError("nobody guards here")

    async def guard_message(self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document) -> None:
        raise AssertionError("nobody guards here")

    async def sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> SyncAnswer:
        await self._weather.there("persistence")
        stored = await self._sqlite.on_sync(user, before, limit)
        try:
            await self._weather.there("cache")
            here = await self._memory.on_sync(user, before, limit)
        except Unavailable:
            return SyncAnswer({"persistence": stored}, ("cache",))
        return SyncAnswer({"persistence": stored, "cache": here}, ())


class Life:
    """One process. What it holds in memory ends with it."""

    def __init__(self, world: World) -> None:
        self.world = world
        surroundings = Surroundings(world.folder, "127.0.0.1")
        self.memory = Memory(Memory.Options(), surroundings, clock=world.wall)
        self.sqlite = Sqlite(Sqlite.Options(), surroundings)
        self.local = Local(Local.Options(), surroundings) if world.keyring is None else None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        world, weather = self.world, self.world.weather
        await self.memory.__aenter__()
        await self.sqlite.__aenter__()
        if self.local is not None:
            await self.local.__aenter__()
            cipher: Cipher = await self.local.provide_encryption()
        else:
            cipher = QuickCipher(world.keyring or Keyring())
        cache = await self.memory.provide_cache()
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
            plugins=_Hooked(self.memory, self.sqlite, weather),
            settings=SETTINGS,
            metrics=world.metrics,
            now=world.now,
        )
        self.registry = Registry()
        self.feeds = Feeds(self.parts, self.registry)
        listener = cast("Listener", _Listening(self.sqlite, weather))
        self.worker = OutboxWorker(self.parts, [listener], f"life-{world.lives}")
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
        task = self.world.loop.create_task(self._serve(link))
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
        await self.memory.__aexit__(None, None, None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.feeds.__aexit__(None, None, None)
        await self.worker.__aexit__(None, None, None)
        await self.sqlite.__aexit__(None, None, None)
        if self.local is not None:
            await self.local.__aexit__(None, None, None)


class World:
    """Files, keys, clock and network. `folder` is its own; `real_keys` takes `encryption.local` instead of the quick cipher."""

    def __init__(self, folder: Path, seed: int, metrics: Metrics, *, real_keys: bool = False) -> None:
        self.folder = folder
        self.chance = Random(seed)
        self.weather = Weather(self.chance)
        self.loop = VirtualLoop(self.chance)
        self.metrics = metrics
        self.keyring = None if real_keys else Keyring()
        self.ahead = 0.0
        """Seconds by which the wall's clock runs before the loop's: time that passed while nobody moved."""
        self.lives = 0
        self.losses = 0
        """How often something was lost, or may have been."""
        self.broken = False
        """Something was raised: the run is over."""
        self.links: list[Link] = []
        self._numbers = 0
        self._connections = 0
        self.life = Life(self)
        self.run(self.life.start())

    def run(self, work: Any) -> Any:
        """Runs until this is done. Raises what clients found broken meanwhile."""
        try:
            return self.loop.run(work)
        except BaseException:
            self.broken = True
            raise

    def pass_time(self, seconds: float) -> None:
        """Lets everything run for so long."""
        self.run(asyncio.sleep(seconds))

    def sleep(self, seconds: float) -> None:
        """Nothing runs for so long. Then every socket is found silent and is closed."""
        self.ahead += seconds
        if seconds > LIMITS.draft_ttl:
            self.losses += 1  # drafts of chats without a message end then
        links, self.links = self.links, []
        for link in links:
            link.break_off(_FOR_GOOD)

    def wall(self) -> float:
        """Seconds since 1970."""
        return _BORN + self.loop.time() + self.ahead

    def now(self) -> datetime:
        return milliseconds(datetime.fromtimestamp(self.wall(), UTC))

    def number(self) -> int:
        """Another one each time."""
        self._numbers += 1
        return self._numbers

    def later(self, last: float, call: Callable[[], None]) -> float:
        """Calls some milliseconds later and not before `last`; the time when it does."""
        when = max(last, self.loop.time() + self.chance.random() ** 3 * 0.03)
        self.loop.call_at(when, call)
        return when

    def connect(self, reader: Reader, user: UserHash, device: str) -> Link:
        self._connections += 1
        link = Link(self, reader, user, device, self._connections)
        self.links = [each for each in self.links if each.served is not None and not each.served.done()]
        self.links.append(link)
        self.life.accept(link)
        return link

    def kill(self, arriving: int, *, lose_cache: bool = False) -> None:
        """The process dies and another one starts on its files; with `lose_cache` the cache's files are gone."""
        links, self.links = self.links, []
        self.run(self.life.kill())
        for link in links:
            link.break_off(arriving)
        if lose_cache:
            self.losses += 1
            shutil.rmtree(self.folder / "cache")
        self.lives += 1
        self.life = Life(self)
        self.run(self.life.start())

    def close(self) -> None:
        """Ends the process and the loop, whatever was broken."""
        self.loop.wind_up(self.life.kill())


def frame(type_: str, id_: str, payload: Any) -> bytes:
    """A client frame."""
    return orjson.dumps({"type": type_, "id": id_, "payload": payload})


def texts(tokens: Sequence[str]) -> list[Any]:
    """Paragraphs."""
    return [{"type": "paragraph", "content": [{"type": "text", "text": token}]} for token in tokens]
