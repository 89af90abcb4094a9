"""The careful clients of the property test, on real sockets: whatever fails meanwhile, what was promised to them must hold.

Their only error is `unavailable`; anything else that reaches them, an internal error or a raw word of Redis, fails the test.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, Self, cast

import aiohttp
import orjson

from plugins.persistence.sqlite_store import SqliteStore
from sidecar import ChatId, ChatInCache, Page, UserHash
from sidecar.ids import hash_user
from sidecar.server.running import Server
from tests.model.client import Client
from tests.model.held import Held
from tests.model.link import Reader, frame
from tests.model.promises import Promises, _difference
from tests.model.reference import Broken, Reference
from tests.model.world import World

SEED = int(os.environ.get("FAULT_SEED", "0"))
"""Of what people do; another one plays another run."""
LIMITS = {"frames_per_second": 100_000, "burst": 1_000_000, "connections_per_user": 50}
"""What the sidecar has to allow them."""
_STILL = 0.25
"""Seconds without a frame after which nothing is on its way."""

_LOOKED_AT = 5.0
"""Where a notice was lost the log's end tells of it, every two seconds."""


class SocketLink:
    """One socket of a client. It may fail at any time; then the client is told, once."""

    def __init__(self, crowd: Crowd, reader: Reader, name: str, device: str) -> None:
        self._crowd = crowd
        self._reader: Reader | None = reader
        self._name = name
        self._device = device
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self._heard = 0.0
        self.task = asyncio.create_task(self._live())

    @property
    def idle(self) -> bool:
        """Whether nothing seems to be on its way."""
        return self._unsent.empty() and asyncio.get_running_loop().time() - self._heard > _STILL

    def send(self, data: bytes) -> None:
        self._unsent.put_nowait(data)

    def cut(self, arriving: int, lingering: float) -> None:
        """The client loses it without a word."""
        self._reader = None
        self.task.cancel()

    async def _live(self) -> None:
        url = self._crowd.chance.choice(self._crowd.urls)
        try:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(15):
                    self._ws = await self._crowd.session.ws_connect(f"{url}/ws", max_msg_size=0)
                    ready = await self._sign_in()
                if ready is not None:
                    await self._talk(ready)
        except Broken as broken:
            self._crowd.broken.append(broken)
        finally:
            if self._ws is not None:
                held = self._ws._response.connection
                if held is not None and held.transport is not None:
                    held.transport.abort()
                await self._ws.close()
            reader, self._reader = self._reader, None
            if reader is not None:
                self._crowd.closes.append(self._ws.close_code if self._ws is not None else None)
                reader.cut_off()

    async def _sign_in(self) -> dict[str, Any] | None:
        """What `ready` says; None where the sidecar refuses, which a client may only be told as `unavailable`."""
        assert self._ws is not None
        await self._ws.receive_json()
        payload: dict[str, Any] = {"token": f"dev:{self._name}", "protocol": 1}
        proof = self._crowd.proofs.get((self._name, self._device))
        if proof is not None:
            payload["device"] = proof
        await self._ws.send_str(frame("auth", "auth", payload).decode())
        message = await self._ws.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            return None
        told = orjson.loads(message.data)
        if told["type"] == "error":
            if told["payload"]["code"] != "unavailable":
                raise Broken(f"{self._name} was refused: {told['payload']}")
            return None
        if "secret" in told["payload"]["device"]:
            device = told["payload"]["device"]
            self._crowd.proofs[self._name, self._device] = {"id": device["id"], "secret": device["secret"]}
        return cast("dict[str, Any]", told["payload"])

    async def _talk(self, ready: dict[str, Any]) -> None:
        assert self._ws is not None
        writing = asyncio.create_task(self._write(self._ws))
        try:
            if self._reader is not None:
                self._reader.ready(ready["epoch"])
            async for message in self._ws:
                self._heard = asyncio.get_running_loop().time()
                if self._reader is not None:
                    self._reader.receive(cast("str", message.data).encode())
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await ws.send_str((await self._unsent.get()).decode())


class _Replacements:
    """The property test excuses a text whose only answer was lost with the cache; here no test makes it so."""

    def answered(self, operation: str) -> None:
        """Nothing is excused."""


class Crowd:
    """People with devices, on a sidecar that may fail. Enter it for its sockets; leaving it closes them.

    `losses` tells it that something was, or may have been, lost: then a server may say `missing`.
    """

    def __init__(self, people: Sequence[str], devices: int, *urls: str, seed: int = 0) -> None:
        """`urls`: of sidecars that share a cache; a client comes to any of them each time."""
        self.urls = list(urls)
        self.chance = Random(seed)
        self.losses = 0
        self.weather = SimpleNamespace(replacements=_Replacements())
        self.broken: list[BaseException] = []
        self.closes: list[int | None] = []
        """With which codes sockets ended; None: there was no connecting."""
        self.proofs: dict[tuple[str, str], dict[str, str]] = {}
        self.session: aiohttp.ClientSession
        self.loop: asyncio.AbstractEventLoop
        self.clients: list[Client] = []
        self.people: dict[str, Reference] = {name: Reference() for name in people}
        self._names = {hash_user(name): name for name in people}
        self._numbers = 0
        self._devices = devices
        self._links: list[SocketLink] = []
        self._coming_back: asyncio.Task[None] | None = None

    # -- the world of a client -------------------------------------------------------------------------------------------

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def connect(self, reader: Reader, user: UserHash, device: str) -> SocketLink:
        link = SocketLink(self, reader, self._names[user], device)
        self._links = [each for each in self._links if not each.task.done()]
        self._links.append(link)
        return link

    # -- its life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.session = aiohttp.ClientSession()
        for name, reference in self.people.items():
            for number in range(self._devices):
                world = cast("World", self)
                client = Client(world, reference, hash_user(name), f"device-{number}", f"{name[0]}{number}")
                self.clients.append(client)
        self._coming_back = self.loop.create_task(self._come_back())
        await self.connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._coming_back is not None:
            self._coming_back.cancel()
        for link in self._links:
            link.cut(0, 0)
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)
        await self.session.close()
        await asyncio.sleep(0)  # the transports that were cut off say goodbye to the loop

    async def _come_back(self) -> None:
        while True:
            for client in self.clients:
                if client.tab.link is None:
                    client.connect()
            await asyncio.sleep(self.chance.uniform(0.1, 0.3))

    def _raise(self) -> None:
        if self.broken:
            raise self.broken[0]

    async def connected(self, seconds: float = 30) -> None:
        """Returns when everybody is connected and synced."""
        await self._until(lambda: all(client.tab.synced for client in self.clients), seconds)

    # -- what people do --------------------------------------------------------------------------------------------------

    def act(self, client: Client, *, messages: bool = True) -> None:
        """One thing that a person does now, by chance."""
        chance, chats = self.chance.random(), list(client.chats.values())
        if len(chats) < 3:
            client.edit(client.new_chat())
            return
        chat: Held = self.chance.choice(chats)
        if chance < 0.6:
            client.edit(chat)
        elif chance < 0.75 and messages:
            client.send(chat, draft=True)
        elif chance < 0.9:
            if not client.entitle(chat):
                client.edit(chat)
        elif chance < 0.95 or len(chats) > 6:
            if not client.clear(chat):
                client.edit(chat)
        else:
            client.edit(client.new_chat())

    async def live(self, seconds: float, pause: float = 0.02, *, messages: bool = True) -> None:
        """Everybody goes on for so long, `pause` between two doings of one client, online or not.

        Without `messages` nothing is on its way to the store while the cache is lost: what is, may there get a place in its
        chat that the next message after the loss gets too (sqlite_schema.py says why that is allowed).
        """
        until = self.loop.time() + seconds

        async def one(client: Client) -> None:
            while self.loop.time() < until and not self.broken:
                self.act(client, messages=messages)
                await asyncio.sleep(self.chance.uniform(0.5, 1.5) * pause)

        await asyncio.gather(*map(one, self.clients))
        self._raise()

    async def lost(self, clients: Sequence[Client] | None = None, seconds: float = 15) -> None:
        """All that the cache had of these people was lost just now, remembered outcomes with it. Returns when all of them
        know of the new epoch; until then answers from before may be on their way."""
        before = {client: client.tab.epoch for client in (self.clients if clients is None else clients)}

        def known() -> bool:
            for client in before:
                client.reference.outcomes_lost()
            return all(client.tab.synced and client.tab.epoch != epoch for client, epoch in before.items())

        await self._until(known, seconds)

    # -- what must hold --------------------------------------------------------------------------------------------------

    async def settle(self, server: Server, seconds: float = 30) -> None:
        """Everybody comes to rest; then everything that was promised must hold, on the devices and in the store."""
        await self._until(lambda: all(client.quiet for client in self.clients), seconds)
        await self._until_stored(server, seconds)
        await self._until(lambda: all(client.quiet for client in self.clients), seconds)
        for name, reference in self.people.items():
            user = hash_user(name)
            clients = [client for client in self.clients if client.user == user]
            with suppress(Broken):
                await self._until(partial(_agree, clients), _LOOKED_AT)
            for other in clients[1:]:
                if other.shown != clients[0].shown:
                    raise Broken(f"devices disagree:\n{_difference(clients[0], other)}")
            Promises._check_texts(reference, clients[0].shown)
            Promises._check_messages(reference, clients[0].shown)
            await _promises(server)._check_rows(user, clients[0].shown)
        self._raise()

    async def _until_stored(self, server: Server, seconds: float) -> None:
        """Whatever the store is to have, it has."""
        cache = server.context.parts.cache

        async def dirty() -> bool:
            for name in self.people:
                user = hash_user(name)
                ids = [ChatId(chat) for client in self.clients if client.user == user for chat in client.chats]
                here = (await cache.chats.read(user, ids)).values()
                if any(isinstance(chat, ChatInCache) and chat.dirty and chat.persisted for chat in here):
                    return True
            positions = (await cache.outbox.positions()).values()
            assert not any(position.parked for position in positions), "nothing was unstorable"
            return any(position.pending for position in positions)

        async with asyncio.timeout(seconds):
            while await dirty():
                self._raise()
                await cache.outbox.hurry()
                server.context.worker.wake()
                await asyncio.sleep(0.1)

    async def _until(self, holds: Any, seconds: float) -> None:
        until = self.loop.time() + seconds
        while not holds():
            self._raise()
            if self.loop.time() > until:
                raise Broken("; ".join(client.unrest for client in self.clients if not client.quiet)[:4000])
            await asyncio.sleep(0.02)

    def texts(self) -> Iterable[str | None]:
        """Drafts as the devices show them."""
        return [chat.draft.text for client in self.clients for chat in client.chats.values()]


def _agree(clients: Sequence[Client]) -> bool:
    return all(other.shown == clients[0].shown for other in clients)


def _promises(server: Server) -> Promises:
    """Those about the store's rows."""
    parts = server.context.parts
    store = cast("SqliteStore", parts.store)

    async def on_sync(user: UserHash, before: None, limit: int) -> Page[Any]:
        return cast("Page[Any]", (await server.context.plugins.sync(user, before, limit)).pages["persistence"])

    life = SimpleNamespace(store=store, cipher=parts.cipher, sqlite=SimpleNamespace(on_sync=on_sync))
    return Promises(cast("World", SimpleNamespace(life=life)), [], [])
