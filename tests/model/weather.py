"""The slots as a network shows them: late, out of step with each other, and now and then away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from sidecar import (
    Accepted,
    Change,
    ChatId,
    ChatInCache,
    ChatInDB,
    Chats,
    Cipher,
    Cursor,
    Deleted,
    DeviceId,
    DeviceInDB,
    Entry,
    Events,
    Field,
    FillToken,
    Fresh,
    KeyGone,
    KeyReference,
    Lease,
    Limits,
    MessageId,
    MessageInDB,
    Outbox,
    Page,
    Position,
    Sealed,
    Store,
    Unavailable,
    Undecryptable,
    UserHash,
)
from sidecar.changes import Outcome
from tests.model.replacements import Replacements


@dataclass
class Weather:
    """What the parts suffer. `away` names those that answer nothing: `cache`, `encryption`, `persistence`."""

    chance: Random
    away: set[str] = field(default_factory=set)
    replacements: Replacements = field(default_factory=Replacements)

    async def there(self, part: str) -> None:
        """The way there. Raises `Unavailable` while the part is away."""
        await self.back()
        if part in self.away:
            raise Unavailable(part, "it is away", retry_after=0.5)

    async def back(self) -> None:
        """The way back: half of the time nothing waits, else the others get their turn."""
        wait = self.chance.random()
        if wait < 0.25:
            await asyncio.sleep(0)
        elif wait < 0.4:
            await asyncio.sleep((wait - 0.25) * 0.03)


class DistantChats(Chats):
    """The chats of a cache behind a network: each step is atomic there, but not its way there and back."""

    def __init__(self, chats: Chats, weather: Weather) -> None:
        self._chats = chats
        self._weather = weather

    @property
    def limits(self) -> Limits:
        return self._chats.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._chats.limits = limits

    async def commit(self, change: Change) -> Outcome:
        await self._weather.there("cache")
        outcome = await self._chats.commit(change)
        if isinstance(outcome, Accepted) and outcome.replaced is not None and change.operation is not None:
            self._weather.replacements.gave_way(change.operation, change.chat_id, outcome.replaced)
        await self._weather.back()
        return outcome

    async def read(
        self, user: UserHash, ids: Sequence[ChatId], *, use: bool = False
    ) -> Mapping[ChatId, ChatInCache | Deleted]:
        await self._weather.there("cache")
        found = await self._chats.read(user, ids, use=use)
        await self._weather.back()
        return found

    async def prepare(self, user: UserHash, ids: Sequence[ChatId]) -> FillToken:
        await self._weather.there("cache")
        return await self._chats.prepare(user, ids)

    async def fill(self, user: UserHash, chats: Sequence[ChatInCache | Deleted], token: FillToken) -> None:
        await self._weather.there("cache")
        await self._chats.fill(user, chats, token)

    async def drop(self, user: UserHash, ids: Sequence[ChatId] | None) -> None:
        await self._weather.there("cache")
        await self._chats.drop(user, ids)

    async def events(self, user: UserHash, after: Cursor | None, limit: int) -> Events:
        await self._weather.there("cache")
        events = await self._chats.events(user, after, limit)
        await self._weather.back()
        return events

    def grown(self, user: UserHash, after: Cursor) -> bool:
        return self._chats.grown(user, after)

    def fresh(self, user: UserHash, after: Cursor, limit: int) -> Fresh | None:
        return self._chats.fresh(user, after, limit)

    def follow(self, user: UserHash) -> None:
        self._chats.follow(user)

    def unfollow(self, user: UserHash) -> None:
        self._chats.unfollow(user)

    def watch(self) -> AsyncIterator[UserHash]:
        return self._chats.watch()


class DistantOutbox(Outbox):
    """The outbox of the same cache."""

    def __init__(self, outbox: Outbox, weather: Weather) -> None:
        self._outbox = outbox
        self._weather = weather
        self.shards = outbox.shards

    async def join(self, plugins: Sequence[str]) -> None:
        await self._outbox.join(plugins)

    async def pending(self, shard: Lease, plugin: str, limit: int) -> Sequence[Entry]:
        await self._weather.there("cache")
        return await self._outbox.pending(shard, plugin, limit)

    async def settle(
        self, shard: Lease, plugin: str, done: Sequence[str], failed: Sequence[str], parked: Sequence[str]
    ) -> None:
        await self._weather.there("cache")
        await self._outbox.settle(shard, plugin, done, failed, parked)

    async def parked(self, plugin: str, replay: Sequence[str] = (), drop: Sequence[str] = ()) -> Sequence[Entry]:
        return await self._outbox.parked(plugin, replay, drop)

    async def hurry(self, user: UserHash | None = None) -> None:
        await self._weather.there("cache")
        await self._outbox.hurry(user)

    async def positions(self) -> Mapping[str, Position]:
        return await self._outbox.positions()

    async def forget(self, plugin: str) -> None:
        await self._outbox.forget(plugin)


class DistantStore(Store):
    """A store that is away from time to time; SQLite's own threads make it late enough."""

    def __init__(self, store: Store, weather: Weather) -> None:
        self._store = store
        self._weather = weather

    async def known(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, ChatInDB]:
        await self._weather.there("persistence")
        return await self._store.known(user, ids)

    async def messages(
        self, user: UserHash, chat_id: ChatId, before: MessageId | None, limit: int
    ) -> Page[MessageInDB]:
        await self._weather.there("persistence")
        return await self._store.messages(user, chat_id, before, limit)

    async def find(self, user: UserHash, chat_id: ChatId, ids: Sequence[MessageId]) -> Mapping[MessageId, MessageInDB]:
        await self._weather.there("persistence")
        return await self._store.find(user, chat_id, ids)

    def everything(self) -> AsyncIterator[ChatInDB]:
        return self._store.everything()

    async def reseal(self, chat: ChatInDB, messages: Sequence[MessageInDB]) -> None:
        await self._store.reseal(chat, messages)

    async def devices(self, user: UserHash) -> Sequence[DeviceInDB]:
        return await self._store.devices(user)

    async def put_device(self, device: DeviceInDB) -> None:
        await self._store.put_device(device)

    async def drop_device(self, user: UserHash, device: DeviceId) -> None:
        await self._store.drop_device(user, device)


@dataclass
class Keyring:
    """The keys of `QuickCipher`, which outlive the process as a key file does."""

    keys: dict[KeyReference, tuple[UserHash, ChatId]] = field(default_factory=dict)
    marks: dict[KeyReference, datetime] = field(default_factory=dict)


class QuickCipher(Cipher):
    """Binds every value to its field and key and hides nothing: a cipher's behaviour without its arithmetic."""

    def __init__(self, keyring: Keyring) -> None:
        self._ring = keyring

    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        key = _reference(user, chat_id)
        if key in self._ring.marks:
            raise KeyGone("this chat's key was destroyed")
        self._ring.keys[key] = (user, chat_id)
        return key

    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        self._check(key)
        return Sealed(_binding(key, field) + plaintext)

    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        self._check(key)
        if sealed[:8] != _binding(key, field):
            raise Undecryptable("this value does not open")
        return sealed[8:]

    def _check(self, key: KeyReference) -> None:
        if key in self._ring.marks:
            raise KeyGone("this chat's key was destroyed")
        if key not in self._ring.keys:
            raise Unavailable("encryption", "there is no key for this chat")

    async def rotate(self, key: KeyReference) -> None:
        self._check(key)

    async def destroy(self, key: KeyReference) -> None:
        self._ring.keys.pop(key, None)
        self._ring.marks.setdefault(key, datetime(2026, 1, 1, tzinfo=UTC))

    async def forget(self, key: KeyReference) -> None:
        self._ring.marks.pop(key, None)

    async def destroyed(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, datetime]:
        marks = {chat_id: self._ring.marks.get(_reference(user, chat_id)) for chat_id in ids}
        return {chat_id: at for chat_id, at in marks.items() if at is not None}

    async def begun(self, user: UserHash, chat_id: ChatId) -> bool:
        key = _reference(user, chat_id)
        return key in self._ring.keys or key in self._ring.marks


def _reference(user: UserHash, chat_id: ChatId) -> KeyReference:
    return KeyReference(f"quick:{user}:{chat_id}")


def _binding(key: KeyReference, field: Field) -> bytes:
    where = f"{key}\0{field.user}\0{field.chat_id}\0{field.name}\0{field.record}\0{field.version}"
    return hashlib.blake2b(where.encode(), digest_size=8).digest()


class DistantCipher(Cipher):
    """A cipher whose keys are far: it waits, and is away from time to time."""

    def __init__(self, cipher: Cipher, weather: Weather) -> None:
        self._cipher = cipher
        self._weather = weather
        self.end_to_end = cipher.end_to_end

    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        await self._weather.there("encryption")
        return await self._cipher.begin(user, chat_id)

    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        await self._weather.there("encryption")
        return await self._cipher.seal(key, field, plaintext)

    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        await self._weather.there("encryption")
        return await self._cipher.open(key, field, sealed)

    async def rotate(self, key: KeyReference) -> None:
        await self._cipher.rotate(key)

    async def destroy(self, key: KeyReference) -> None:
        await self._weather.there("encryption")
        await self._cipher.destroy(key)
        await self._weather.back()

    async def forget(self, key: KeyReference) -> None:
        await self._cipher.forget(key)

    async def destroyed(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, datetime]:
        await self._weather.there("encryption")
        return await self._cipher.destroyed(user, ids)

    async def begun(self, user: UserHash, chat_id: ChatId) -> bool:
        await self._weather.there("encryption")
        return await self._cipher.begun(user, chat_id)
