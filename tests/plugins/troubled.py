"""A plugin that a test lets fail, hang or block its thread, in every hook that the core waits for (S64, T44)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from sidecar import Author, Document, hookimpl


class Troubled:
    api = 1

    def __init__(self) -> None:
        self.how = ""
        self.calls = 0
        self.release = threading.Event()

    async def _go(self) -> None:
        self.calls += 1
        if self.how == "raises":
            raise ValueError("what a person wrote")
        if self.how == "hangs":
            await asyncio.Event().wait()
        if self.how == "blocks":
            self.release.wait(20)

    @hookimpl
    async def before_draft(self, author: Author) -> None:
        await self._go()

    @hookimpl
    async def on_draft(self, chat: Any) -> None:
        await self._go()

    @hookimpl
    async def on_message(self, chat: Any, message: Any) -> None:
        await self._go()

    async def state(self) -> str:
        await self._go()
        return "well"


class TroubledGuard:
    """Looks at what it is given, and changes it: in its own copy."""

    api = 1

    @hookimpl
    async def before_draft(self, author: Author, plaintext: Document) -> None:
        plaintext.tree()["content"] = []
