"""Well-behaved plugins of a user's own, for tests."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from pathlib import Path

from pydantic import BaseModel

from sidecar import (
    ChatId,
    ChatInDB,
    Deleted,
    Document,
    MessageInDB,
    Page,
    Refused,
    StartRefused,
    Surroundings,
    UserHash,
    hookimpl,
)

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


class Recorder:
    """Every hook of a plugin outside of the slots; remembers what it was told."""

    api = 1

    class Options(BaseModel, extra="forbid"):
        journal: Path | None = None
        word: str = ""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self.options = options
        self.surroundings = surroundings
        self.told: list[tuple[object, ...]] = []
        self.life: list[str] = []
        self.threads: set[int] = set()

    async def __aenter__(self) -> Recorder:
        self._note("entered")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._note("left")

    def _note(self, what: str) -> None:
        asyncio.get_running_loop()
        self.threads.add(threading.get_ident())
        self.life.append(what)
        if self.options.journal:
            with self.options.journal.open("a") as file:
                file.write(f"{self.options.word} {what}\n")

    def _hear(self, *what: object) -> None:
        self.threads.add(threading.get_ident())
        self.told.append(what)

    async def state(self) -> dict[str, object]:
        self.threads.add(threading.get_ident())
        return {"told": len(self.told)}

    @hookimpl
    async def before_draft(self, plaintext: Document, chat_id: ChatId) -> None:
        self._hear("before_draft", chat_id, plaintext, WHO.get())
        if self.options.journal:
            with self.options.journal.open("a") as file:
                file.write(f"{self.options.word} asked\n")
        if b"forbidden" in plaintext.raw:
            raise Refused(f"{self.options.word} forbids it")

    @hookimpl
    async def before_message(self, chat: ChatInDB | None, plaintext: Document) -> None:
        self._hear("before_message", chat, plaintext)

    @hookimpl
    async def on_draft(self, plaintext: Document | None, chat: ChatInDB) -> None:
        self._hear("on_draft", chat, plaintext)

    @hookimpl
    async def on_message(self, message: MessageInDB, plaintext: Document) -> None:
        self._hear("on_message", message, plaintext)

    @hookimpl
    async def on_title(self, chat: ChatInDB, plaintext: str | None) -> None:
        self._hear("on_title", chat, plaintext)

    @hookimpl
    async def on_chat_deleted(self, chat: Deleted) -> None:
        self._hear("on_chat_deleted", chat)

    @hookimpl
    async def on_user_erased(self, user: UserHash) -> None:
        self._hear("on_user_erased", user)

    @hookimpl
    async def on_sync(self, user: UserHash, limit: int) -> Page[ChatInDB]:
        self._hear("on_sync", user, limit)
        return Page([], False, 0)


class Titles:
    """One hook, no plaintext."""

    api = 1

    def __init__(self) -> None:
        self.told: list[ChatInDB] = []

    @hookimpl
    async def on_title(self, chat: ChatInDB) -> None:
        self.told.append(chat)


class BadStart(Titles):
    """Its text may tell what a connection string held; it must not come out."""

    async def __aenter__(self) -> BadStart:
        raise RuntimeError("postgres://user:hunter2@host")

    async def __aexit__(self, *_: object) -> None:
        return None


class RefusesStart(Titles):
    async def __aenter__(self) -> RefusesStart:
        raise StartRefused("search", "the index has another schema; run search migrate")

    async def __aexit__(self, *_: object) -> None:
        return None


class BadEnd(Titles):
    async def __aenter__(self) -> BadEnd:
        return self

    async def __aexit__(self, *_: object) -> None:
        raise RuntimeError("cannot leave")
