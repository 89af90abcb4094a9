"""A plugin for each way in which one can go wrong (T44). `how` says what; it goes wrong in every hook."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

from pydantic import BaseModel

from sidecar import Author, ChatInDB, Document, MessageInDB, Page, Refused, Unavailable, Unstorable, UserHash, hookimpl

SECRET = "what a person wrote"  # must never be seen outside of the plugin


class Misbehaving:
    api = 1

    class Options(BaseModel, extra="forbid"):
        how: str = ""
        seconds: float = 1.0

    def __init__(self, options: Options) -> None:
        self.how = options.how
        self.seconds = options.seconds
        self.calls = 0
        self.threads: list[int] = []
        self.cancelled = 0
        self.ended = 0
        self.release = threading.Event()

    async def _go(self, *arguments: Any) -> Any:
        self.calls += 1
        self.threads.append(threading.get_ident())
        action = getattr(self, f"_{self.how}", None)
        return await action(*arguments) if action else None

    async def _raises(self, *_: Any) -> None:
        raise ValueError(SECRET)

    async def _exits(self, *_: Any) -> None:
        sys.exit(SECRET)

    async def _interrupts(self, *_: Any) -> None:
        raise KeyboardInterrupt(SECRET)

    async def _cancels(self, *_: Any) -> None:
        raise asyncio.CancelledError(SECRET)

    async def _stops(self, *_: Any) -> None:
        raise GeneratorExit

    async def _hangs(self, *_: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    async def _clings(self, *_: Any) -> None:
        """Hangs, and takes no cancellation for an answer."""
        begun = time.monotonic()
        while time.monotonic() < begun + self.seconds:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self.cancelled += 1

    async def _blocks(self, *_: Any) -> None:
        self.release.wait(self.seconds)
        self.ended += 1

    async def _spins(self, *_: Any) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end and not self.release.is_set():
            pass
        self.ended += 1

    async def _mutates(self, *arguments: Any) -> None:
        for each in arguments:
            if isinstance(each, Document):
                each.tree()["content"] = []
                object.__setattr__(each, "raw", b"{}")
            elif isinstance(each, ChatInDB):
                each.__dict__["version"] = 99
                each.__dict__["draft"] = None
            elif isinstance(each, Author):
                object.__setattr__(each, "user", "f" * 64)

    async def _spawns(self, *_: Any) -> None:
        """Leaves a task behind that tries to end the loop."""

        async def end() -> None:
            sys.exit(SECRET)

        self._kept = asyncio.get_running_loop().create_task(end())
        await asyncio.sleep(0.02)

    async def _returns(self, *_: Any) -> object:
        return False

    async def _refuses(self, *_: Any) -> None:
        raise Refused("no" + "o" * 300 + "\ud800")

    async def _pauses(self, *_: Any) -> None:
        raise Unavailable("search", "full disk", 3.0)

    async def _parks(self, *_: Any) -> None:
        raise Unstorable("no such index")

    async def _foreign(self, *_: Any) -> object:
        return Page([ChatInDB.model_construct(hashed_user_id="f" * 64)], False, 1)

    @hookimpl
    async def before_draft(self, author: Author, chat: ChatInDB | None, plaintext: Document) -> None:
        return await self._go(author, chat, plaintext)  # type: ignore[no-any-return]

    @hookimpl
    async def before_message(self, author: Author, chat: ChatInDB | None, plaintext: Document) -> None:
        return await self._go(author, chat, plaintext)  # type: ignore[no-any-return]

    @hookimpl
    async def on_draft(self, chat: ChatInDB, plaintext: Document | None) -> None:
        await self._go(chat, plaintext)

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB, plaintext: Document) -> None:
        await self._go(chat, message, plaintext)

    @hookimpl
    async def on_sync(self, user: UserHash) -> Page[ChatInDB]:
        return await self._go(user)  # type: ignore[no-any-return]
