"""Plugins for the outbox's tests: a store that fails when it is told to, and a listener that remembers what it heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from plugins.persistence.sqlite import Sqlite
from sidecar import ChatInDB, Deleted, MessageInDB, Surroundings, Unavailable, hookimpl

Trouble = Callable[[str, str, str], Exception | None]
"""By hook, client's part of the chat id and client message id (empty where there is none): what to raise."""


class FaultyStore(Sqlite):
    """`persistence.sqlite`, away while a file exists, or in any other trouble."""

    class Options(Sqlite.Options):
        away: Path | None = None

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        super().__init__(options, surroundings)
        self._away = options.away
        self.trouble: Trouble = lambda hook, chat, message: None
        self.hold: asyncio.Event | None = None
        """Writes wait for this, if it is there."""
        self.calls: list[tuple[str, str, str]] = []
        self.stored: list[tuple[str, str, str]] = []
        self.under_way = 0
        self.most_under_way = 0
        self._busy: set[str] = set()

    async def _meet(self, hook: str, chat_id: str, message: str = "") -> tuple[str, str, str]:
        what = (hook, chat_id.partition("_")[2], message)
        self.calls.append(what)
        assert chat_id not in self._busy, "one call at a time per chat"
        self._busy.add(chat_id)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self._away is not None and self._away.exists():
                raise Unavailable("persistence", "away for the test", retry_after=0.05)
            if (error := self.trouble(*what)) is not None:
                raise error
        finally:
            self._busy.discard(chat_id)
            self.under_way -= 1
        return what

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        what = await self._meet("on_draft", chat.id)
        await super().on_draft(chat)
        self.stored.append(what)

    @hookimpl
    async def on_title(self, chat: ChatInDB) -> None:
        what = await self._meet("on_title", chat.id)
        await super().on_title(chat)
        self.stored.append(what)

    @hookimpl
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        what = await self._meet("on_first_message", chat.id, message.client_message_id or "")
        await super().on_first_message(chat, message)
        self.stored.append(what)

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        what = await self._meet("on_message", chat.id, message.client_message_id or "")
        await super().on_message(chat, message)
        self.stored.append(what)

    @hookimpl
    async def on_chat_deleted(self, chat: Deleted) -> None:
        what = await self._meet("on_chat_deleted", chat.chat_id)
        await super().on_chat_deleted(chat)
        self.stored.append(what)


class Hearing:
    """A listener beside the store."""

    api = 1

    class Options(BaseModel, extra="forbid"):
        """There is nothing to set."""

    def __init__(self, options: Options) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self.trouble: Trouble = lambda hook, chat, message: None

    def _hear(self, hook: str, chat_id: str, message: str = "") -> None:
        what = (hook, chat_id.partition("_")[2], message)
        if (error := self.trouble(*what)) is not None:
            raise error
        self.heard.append(what)

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        self._hear("on_draft", chat.id)

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        self._hear("on_message", chat.id, message.client_message_id or "")

    @hookimpl
    async def on_chat_deleted(self, chat: Deleted) -> None:
        self._hear("on_chat_deleted", chat.chat_id)
