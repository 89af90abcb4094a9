"""The plugins as the core meets them once they are loaded: the store that the outbox tells, the lists of the two slots."""

from __future__ import annotations

from datetime import datetime

from plugins.persistence.sqlite import Sqlite
from sidecar import ChatId, ChatInDB, Unavailable, UserHash
from sidecar.documents import Document
from sidecar.records import Author, Deleted, MessageInDB
from sidecar.sync_pages import SyncAnswer
from tests.model.caches import CachePlugin
from tests.model.weather import Weather


class Listening:
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


class Hooked:
    """No guards; the lists of the two slots that have one."""

    guards_drafts = False
    guards_messages = False

    def __init__(self, cache: CachePlugin, sqlite: Sqlite, weather: Weather) -> None:
        self._cache = cache
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
            here = await self._cache.on_sync(user, before, limit)
        except Unavailable:
            return SyncAnswer({"persistence": stored}, ("cache",))
        return SyncAnswer({"persistence": stored, "cache": here}, ())
