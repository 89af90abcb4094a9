"""A listener that writes down, in one file for all processes, which message it was told of by which process, and waits when it is to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from sidecar import ChatInDB, MessageInDB, hookimpl


class Witness:
    api = 1

    class Options(BaseModel, extra="forbid"):
        folder: Path

    def __init__(self, options: Options) -> None:
        self._told = options.folder / "told"
        self._hold = options.folder / "hold"
        """Holds the client's id of a message, the call for which goes on for as long as it stands there."""

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        with self._told.open("a") as file:
            file.write(f"{os.getpid()} {chat.id} {message.client_message_id}\n")
        while True:
            if self._held() != message.client_message_id:
                return
            await asyncio.sleep(0.02)

    def _held(self) -> str:
        try:
            return self._hold.read_text()
        except FileNotFoundError:
            return ""


def hold(folder: Path, message: str) -> None:
    """From now on the call for this message waits, and no other."""
    new = folder / "hold.new"
    new.write_text(message)
    new.rename(folder / "hold")


def told(folder: Path, chat: str) -> list[tuple[int, str]]:
    """Which process told of which message of this chat, in the order of the calls."""
    path = folder / "told"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(int(pid), message) for pid, of, message in lines if of == chat]
