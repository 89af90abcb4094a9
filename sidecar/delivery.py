"""One entry of the outbox on its way to one plugin: what is delivered is the state at delivery (semantics §5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.changes import ChatInCache, Entry, EntryKind, MessageStatus, Stored
from sidecar.chats import Found, bury, load, own_change
from sidecar.documents import Document
from sidecar.errors import KeyGone, LeaseLost, Undecryptable, Unstorable
from sidecar.ids import ChatId
from sidecar.listeners import Listener
from sidecar.merge import delivered
from sidecar.parts import Parts
from sidecar.records import ChatInDB, Deleted, MessageInCache
from sidecar.texts import open_draft, open_message, open_title

PERSISTENCE = "persistence"

Held = Callable[[], bool]
"""Whether the shard of an entry is still this process' to work."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Entries on their way to one listener."""

    parts: Parts
    listener: Listener

    async def deliver(self, entry: Entry, held: Held) -> None:
        """Returns when the plugin has it, or there is nothing left to deliver. Raises what the plugin raised.

        Raises `LeaseLost`, and tells the plugin nothing, when `held` says no: what was read before may be old by now.
        """
        if not self.listener.handles(entry.kind):
            return
        if entry.kind == "erased":
            _insist(held)
            await self.listener.deliver_erased(entry.user)
            return
        if entry.chat_id is None:
            raise Unstorable("the entry names no chat")
        if entry.kind == "deleted":
            found = (await self.parts.cache.chats.read(entry.user, [entry.chat_id])).get(entry.chat_id)
            gone = found if isinstance(found, Deleted) else Deleted(entry.user, entry.chat_id, entry.at)
            _insist(held)
            await self.listener.deliver_deleted(gone)
            return
        chat = await self._chat(entry, entry.chat_id)
        if chat is None:
            return  # deleted meanwhile, or lost: then its devices bring it back
        try:
            if entry.kind == "draft":
                await self._draft(chat, held)
            elif entry.kind == "title":
                await self._title(chat, held)
            else:
                await self._message(entry, chat, held)
        except KeyGone:
            await bury(self.parts, entry.user, entry.chat_id, chat.key)
        except Undecryptable:
            raise Unstorable("the text does not open") from None

    async def _chat(self, entry: Entry, chat_id: ChatId) -> ChatInCache | None:
        loaded: dict[ChatId, Found] = dict((await load(self.parts, entry.user, [chat_id])).chats)
        found = loaded.get(chat_id)
        return found if isinstance(found, ChatInCache) else None

    def _opens(self, kind: EntryKind) -> bool:
        return not self.parts.cipher.end_to_end and self.listener.needs_plaintext(kind)

    def _comes_with_message(self, chat: ChatInCache) -> bool:
        """Whether the store is to wait for the first message, which brings draft and title along: no row before it (semantics §4)."""
        return self.listener.name == PERSISTENCE and not chat.in_store and chat.undelivered > 0

    async def _draft(self, chat: ChatInCache, held: Held) -> None:
        if self._comes_with_message(chat):
            return
        raw = await open_draft(self.parts, chat) if self._opens("draft") else None
        _insist(held)
        await self.listener.deliver_draft(chat.in_db(), Document(raw) if raw is not None else None)
        await self._stored(chat)

    async def _title(self, chat: ChatInCache, held: Held) -> None:
        if self._comes_with_message(chat):
            return
        title = await open_title(self.parts, chat) if self._opens("title") else None
        _insist(held)
        await self.listener.deliver_title(chat.in_db(), title)
        await self._stored(chat)

    async def _message(self, entry: Entry, chat: ChatInCache, held: Held) -> None:
        message = await self._find(entry, chat)
        if message is None:
            return
        raw = await open_message(self.parts, chat.key, message) if self._opens(entry.kind) else None
        plaintext = Document(raw) if raw is not None else None
        row: ChatInDB = chat.in_db()
        if self.listener.name == PERSISTENCE and message.status != "delivered":
            # With the number that `delivered` will have: the store is never behind what a device saw (semantics §4).
            row = row.model_copy(update={"messages_version": chat.messages_version + 1})
        _insist(held)
        if entry.kind == "first_message":
            await self.listener.deliver_first_message(row, message, plaintext)
        else:
            await self.listener.deliver_message(row, message, plaintext)
        await self._stored(chat, message)

    async def _find(self, entry: Entry, chat: ChatInCache) -> MessageInCache | None:
        for message in chat.messages:
            if message.id == entry.message_id:
                return message
        if entry.message_id is None or self.listener.name == PERSISTENCE:
            return None  # a message that only the store has needs no storing
        row = (await self.parts.store.find(chat.user, chat.id, [entry.message_id])).get(entry.message_id)
        return delivered(row) if row is not None else None

    async def _stored(self, chat: ChatInCache, message: MessageInCache | None = None) -> None:
        """From the persistence slot success means stored: marked clean in place, and everybody is told."""
        if self.listener.name != PERSISTENCE or not chat.persisted:
            return
        what = Stored(chat.version, chat.title_version, message.id if message is not None else None)
        await self.parts.cache.chats.commit(own_change(self.parts, chat.user, chat.id, what))

    async def park(self, entry: Entry) -> None:
        """The entry waits for a person now: a message that the store did not get has the status `error`."""
        if self.listener.name != PERSISTENCE or entry.message_id is None or entry.chat_id is None:
            return
        what = MessageStatus(entry.message_id, "error")
        await self.parts.cache.chats.commit(own_change(self.parts, entry.user, entry.chat_id, what))


def _insist(held: Held) -> None:
    if not held():
        raise LeaseLost("somebody else may be at work on this entry by now")
