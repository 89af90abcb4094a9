"""The cipher whose keys Vault keeps: sealing and opening are the core's (`KeyedCipher`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

import structlog

from plugins.encryption.vault_entries import Entries
from plugins.encryption.vault_entry import (
    WRAPPED,
    Damaged,
    Entry,
    Mark,
    decoded,
    encoded,
    is_slot,
    shard_of,
    slot_in,
    slot_of,
)
from plugins.encryption.vault_transit import Transit
from sidecar import (
    Asked,
    ChatId,
    Field,
    KeyedCipher,
    KeyGone,
    KeyReference,
    Sealed,
    Unavailable,
    Undecryptable,
    UserHash,
)

log = structlog.get_logger("plugins.encryption.vault")

T = TypeVar("T")
Q = TypeVar("Q")

_TRIES = 16
_BULK = 12
"""Of the pool's 16 threads, so that reading the keys of a thousand chats leaves some to who is typing."""
_BULK_EACH = 8
"""Of one person's sync, so that it leaves some to the next one's first chat."""
_PAGE = 100
_PREFIX = "vault:"
_GONE = "this chat's key was destroyed"


class VaultCipher(KeyedCipher):
    """A reference is `vault:` and the slot of the chat; in transit mode with the wrapped key behind it."""

    def __init__(self, entries: Entries, transit: Transit | None, *, wraps: bool) -> None:
        """`wraps`: new keys are wrapped by `transit`. Those that are there are read as they are."""
        self._entries = entries
        self._transit = transit
        self._wraps = wraps
        self._bulk = asyncio.Semaphore(_BULK)
        self._beginning: dict[str, asyncio.Task[KeyReference]] = {}

    async def seal(self, key: KeyReference, field: Field, plaintext: bytes) -> Sealed:
        if not _is_of(key, field.user, field.chat_id):
            # A cache that somebody wrote into says so: what were sealed now would open and end with another chat.
            raise Unavailable("encryption", "this chat names the key of another one")
        return await super().seal(key, field, plaintext)

    async def open(self, key: KeyReference, field: Field, sealed: Sealed) -> bytes:
        if not _is_of(key, field.user, field.chat_id):
            raise Undecryptable("this value does not open")
        return await super().open(key, field, sealed)

    # -- the life of a key ---------------------------------------------------------------------------------------------

    async def begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        slot = slot_of(user, chat_id)
        task = self._beginning.get(slot)
        if task is None:
            task = self._beginning[slot] = asyncio.create_task(self._begin(user, chat_id))
            task.add_done_callback(lambda _: self._beginning.pop(slot, None))
            task.add_done_callback(_retrieve)
        await asyncio.wait((task,))  # one that is cancelled does not take the key away from the others
        if task.cancelled():
            raise Unavailable("encryption", "it is closed")
        return task.result()

    async def _begin(self, user: UserHash, chat_id: ChatId) -> KeyReference:
        slot, secret = slot_of(user, chat_id), os.urandom(32)
        asked = self.asking()
        for _ in range(_TRIES):
            if self._wraps:
                wrapped = await self._wrapping().wrap(slot, secret)
                entry = Entry(user, chat_id, {1: wrapped}, begun=wrapped)
            else:
                entry = Entry(user, chat_id, {1: encoded(secret)})
            if await self._entries.create(entry):
                # Vault has confirmed it: the first text need not wait for a reading.
                self.keep_cached(entry.reference, {1: secret}, asked)
                return entry.reference
            try:
                found = await self._entries.look(slot)
            except Damaged as error:
                raise Unavailable("encryption", str(error), retry_after=5.0) from None
            if isinstance(found, Mark):
                raise KeyGone(_GONE)
            if found is not None:
                return found.reference
        raise Unavailable("encryption", "an entry in Vault came and went too often", 0.2)

    async def read_key(self, key: KeyReference) -> Mapping[int, bytes]:
        return await self._secrets(await self._living(slot_in(key)))

    async def rotate(self, key: KeyReference) -> None:
        slot = slot_in(key)
        try:
            for _ in range(_TRIES):
                async with self._bulk:  # an operator's command has many of them
                    entry = await self._living(slot)
                    if await self._entries.replace(await self._with_new_version(entry), entry.number):
                        return
        finally:
            self.drop_cached(key)
        raise Unavailable("encryption", "an entry in Vault changed too often meanwhile", 0.2)

    async def destroy(self, key: KeyReference) -> None:
        slot = slot_in(key)
        try:
            await self._entries.destroy(slot)
        finally:
            self.drop_cached(key)

    async def forget(self, key: KeyReference) -> None:
        slot = slot_in(key)
        try:
            await self._entries.forget(slot)
        finally:
            self.drop_cached(key)

    # -- what is there -------------------------------------------------------------------------------------------------

    async def destroyed(self, user: UserHash, ids: Sequence[ChatId]) -> Mapping[ChatId, datetime]:
        """As the slot says. The same answer of Vault brings the keys of those that live: they are cached on the way."""
        found = await self._each(ids, lambda chat_id: self._glance(slot_of(user, chat_id)))
        living = [(entry, asked) for entry, asked in found if isinstance(entry, Entry)]
        # All of them at once: where transit has to unwrap them, a hundred leave together.
        await asyncio.gather(*(self._remember(entry, asked) for entry, asked in living))
        return {chat_id: mark.at for chat_id, (mark, _) in zip(ids, found, strict=True) if isinstance(mark, Mark)}

    async def _glance(self, slot: str) -> tuple[Entry | Mark | None, Asked]:
        """What is there, among the calls that may be many; None too where it is damaged: whoever opens it is told."""
        asked = self.asking()
        try:
            async with self._bulk:
                return await self._entries.look(slot), asked
        except Damaged:
            return None, asked

    async def _remember(self, entry: Entry, asked: Asked) -> None:
        try:
            self.keep_cached(entry.reference, await self._secrets(entry), asked)
        except (Undecryptable, Unavailable):
            pass  # it lives: that is what was asked

    async def begun(self, user: UserHash, chat_id: ChatId) -> bool:
        try:
            return await self._entries.look(slot_of(user, chat_id)) is not None
        except Damaged:
            return True

    async def keys(self) -> AsyncIterator[tuple[KeyReference, UserHash, ChatId]]:
        for shard in await self._entries.names():
            async for entry in self._in_shard(shard.rstrip("/")):
                yield entry.reference, entry.user, entry.chat_id

    async def keys_of(self, user: UserHash) -> AsyncIterator[tuple[KeyReference, UserHash, ChatId]]:
        async for entry in self._in_shard(shard_of(user)):
            if entry.user == user:
                yield entry.reference, entry.user, entry.chat_id

    async def _in_shard(self, shard: str) -> AsyncIterator[Entry]:
        slots = [f"{shard}/{name}" for name in await self._entries.names(shard)]
        for start in range(0, len(slots), _PAGE):
            page = [slot for slot in slots[start : start + _PAGE] if is_slot(slot)]
            for entry, _ in await self._each(page, self._glance):
                if isinstance(entry, Entry):
                    yield entry

    async def _each(self, items: Sequence[Q], ask: Callable[[Q], Awaitable[T]]) -> list[T]:
        """The answers in the order of `items`, a few asked at a time. The first error ends it."""
        answers: dict[int, T] = {}
        waiting = iter(enumerate(items))

        async def work() -> None:
            for number, item in waiting:
                answers[number] = await ask(item)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_BULK_EACH, len(items))):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [answers[number] for number in range(len(items))]

    async def close(self) -> None:
        """Forgets the cached keys; what is being made takes its course no further."""
        tasks = list(self._beginning.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.drop_cached()

    # -- keys in the clear ---------------------------------------------------------------------------------------------

    async def _living(self, slot: str) -> Entry:
        found = await self._entries.look(slot)
        if isinstance(found, Mark):
            raise KeyGone(_GONE)
        if found is None:
            raise Undecryptable("there is no key under this reference")
        return found

    async def _secrets(self, entry: Entry) -> Mapping[int, bytes]:
        """All versions of the key, in the clear."""
        wrapped = {version: key for version, key in entry.keys.items() if WRAPPED.fullmatch(key)}
        secrets = {version: decoded(key) for version, key in entry.keys.items() if version not in wrapped}
        if wrapped:
            transit = self._wrapping()
            # gather and not one by one: they leave together, with those of other chats
            opened = await asyncio.gather(*(transit.unwrap(entry.slot, key) for key in wrapped.values()))
            secrets |= dict(zip(wrapped, opened, strict=True))
        return secrets

    async def _with_new_version(self, entry: Entry) -> Entry:
        """The entry with one more version, all of them kept as the mode has it: transit wraps the old ones anew too."""
        number, secret = entry.number + 1, os.urandom(32)
        keys: dict[int, str]
        if self._wraps:
            transit = self._wrapping()
            old = await asyncio.gather(
                *(
                    transit.rewrap(entry.slot, key)
                    if WRAPPED.fullmatch(key)
                    else transit.wrap(entry.slot, decoded(key))
                    for key in entry.keys.values()
                )
            )
            keys = dict(zip(entry.keys, old, strict=True)) | {number: await transit.wrap(entry.slot, secret)}
        else:
            keys = {version: encoded(each) for version, each in (await self._secrets(entry)).items()}
            keys[number] = encoded(secret)
        return Entry(entry.user, entry.chat_id, keys, begun=entry.begun)

    def _wrapping(self) -> Transit:
        if self._transit is None:
            raise Unavailable("encryption", "this key is wrapped by transit; set transit in encryption.options", 5.0)
        return self._transit


@lru_cache(maxsize=4096)
def _is_of(key: KeyReference, user: UserHash, chat_id: ChatId) -> bool:
    """Whether the reference is this chat's own. That of another cipher is looked at by whoever reads it."""
    return key[: len(_PREFIX)] != _PREFIX or key[len(_PREFIX) :].partition(":")[0] == slot_of(user, chat_id)


def _retrieve(task: asyncio.Task[KeyReference]) -> None:
    if not task.cancelled():
        task.exception()  # callers may all have gone
