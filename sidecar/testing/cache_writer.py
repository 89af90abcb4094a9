"""A person who writes, for tests of a cache: builds changes and commits them as the core does."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sidecar.changes import (
    Accepted,
    AddMessage,
    Change,
    ChatInCache,
    Conflict,
    DeleteChat,
    Entry,
    Outcome,
    PutDraft,
    PutTitle,
    Stored,
    Unmerged,
    What,
)
from sidecar.cursors import Cursor, Events
from sidecar.ids import ChatId, ConnectionId, DeviceId, KeyReference, UserHash, chat_id_of, hash_user, message_id_of
from sidecar.records import MessageInDB, Sealed
from sidecar.slots.cache import Cache, Lease


def sealed(text: str) -> Sealed:
    """Stands for sealed bytes: a cache never looks into them."""
    return Sealed(text.encode())


class Writer:
    """One person with one device. The store behind this cache is empty, as far as this person is concerned."""

    def __init__(self, cache: Cache, name: str = "alice") -> None:
        self.cache = cache
        self.user: UserHash = hash_user(name)

    def chat(self, client_chat_id: str = "one") -> ChatId:
        """The full id of this person's chat."""
        return chat_id_of(self.user, client_chat_id)

    def change(self, what: What, chat: str = "one", op: str | None = "", **more: Any) -> Change:
        """A change; its operation id is a new one unless given, None for the sidecar's own. Its digest is of what it asks."""
        operation = uuid.uuid4().hex if op == "" else op
        return Change(
            **{
                "user": self.user,
                "device": DeviceId("phone"),
                "chat_id": self.chat(chat),
                "key": KeyReference("key"),
                "operation": operation,
                "digest": hashlib.sha256(repr(what).encode()).digest()[:16],
                "at": datetime.now(UTC),
                "what": what,
                "connection": ConnectionId("tab"),
                **more,
            }
        )

    async def commit(self, change: Change) -> Outcome:
        """The outcome; where the cache wants proof that the store was asked, it gets that."""
        outcome = await self.cache.chats.commit(change)
        if isinstance(outcome, Unmerged):
            token = await self.cache.chats.prepare(change.user, [change.chat_id])
            outcome = await self.cache.chats.commit(replace(change, token=token))
        return outcome

    async def accepted(self, what: What, chat: str = "one", op: str | None = "") -> Accepted:
        """The change, which must be accepted."""
        outcome = await self.commit(self.change(what, chat, op))
        assert isinstance(outcome, Accepted), outcome
        return outcome

    async def conflict(self, what: What, chat: str = "one", op: str | None = "") -> Conflict:
        """The change, which must be a conflict."""
        outcome = await self.commit(self.change(what, chat, op))
        assert isinstance(outcome, Conflict), outcome
        return outcome

    async def draft(self, text: str, base: int = 0, chat: str = "one") -> Accepted:
        return await self.accepted(PutDraft(sealed(text), base), chat)

    async def title(self, text: str, base: int = 0, chat: str = "one") -> Accepted:
        return await self.accepted(PutTitle(sealed(text), base), chat)

    def message(
        self, client_id: str, chat: str = "one", draft_version: int | None = None, draft_op: str | None = None
    ) -> AddMessage:
        """A message of this client message id."""
        chat_id = self.chat(chat)
        return AddMessage(
            MessageInDB(
                id=message_id_of(chat_id, client_id),
                chat_id=chat_id,
                hashed_user_id=self.user,
                client_message_id=client_id,
                role="user",
                sender_name="Alice",
                content=sealed(f"message {client_id}"),
                sequence=0,
                created_at=datetime.now(UTC),
            ),
            draft_version,
            draft_op,
        )

    async def send(self, client_id: str, chat: str = "one", draft_version: int | None = None) -> Accepted:
        return await self.accepted(self.message(client_id, chat, draft_version), chat)

    async def stored(self, chat: str = "one") -> None:
        """The store has everything of this chat."""
        record = await self.here(chat)
        for message in record.messages:
            await self.accepted(Stored(record.version, record.title_version, message.id), chat, None)
        if not record.messages:
            await self.accepted(Stored(record.version, record.title_version), chat, None)

    async def clean(self, chat: str) -> None:
        """A chat with a message and nothing that the store has not got."""
        await self.send(f"first-{chat}", chat)
        await self.stored(chat)

    async def delete(self, chat: str = "one") -> Accepted:
        return await self.accepted(DeleteChat(), chat, None)

    async def here(self, chat: str = "one") -> ChatInCache:
        """The chat, which must be in the cache."""
        found = (await self.cache.chats.read(self.user, [self.chat(chat)])).get(self.chat(chat))
        assert isinstance(found, ChatInCache), found
        return found

    async def names_here(self, chats: Sequence[str]) -> set[str]:
        """Which of these chats are in the cache, looked at without use."""
        found = await self.cache.chats.read(self.user, [self.chat(each) for each in chats])
        return {each for each in chats if isinstance(found.get(self.chat(each)), ChatInCache)}

    async def events(self, after: Cursor | None = None, limit: int = 1000) -> Events:
        return await self.cache.chats.events(self.user, after, limit)

    async def head(self) -> Cursor:
        return (await self.events()).head


async def worker(cache: Cache, holder: str = "worker", seconds: float = 3600.0) -> Lease:
    """The lease on the only shard of an outbox, or on its first."""
    lease = await cache.leases.take("outbox:0", holder, seconds)
    assert lease is not None
    return lease


async def kinds(cache: Cache, shard: Lease, plugin: str) -> list[str]:
    """The kinds of the entries that wait for this plugin."""
    return [entry.kind for entry in await cache.outbox.pending(shard, plugin, 1000)]


async def settle_all(cache: Cache, shard: Lease, plugin: str) -> Sequence[Entry]:
    """Everything that waits for this plugin, passed."""
    entries = await cache.outbox.pending(shard, plugin, 1000)
    await cache.outbox.settle(shard, plugin, [entry.id for entry in entries], [], [])
    return entries
