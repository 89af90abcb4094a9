"""A persistence that will not take what it is told while a file says so: how dead letters come to be."""

from __future__ import annotations

from pathlib import Path

from plugins.persistence.sqlite import Sqlite
from sidecar import ChatInDB, MessageInDB, Surroundings, Unstorable, hookimpl


class Stubborn(Sqlite):
    """Refuses messages for good while `data_dir/refuse` is there."""

    def __init__(self, options: Sqlite.Options, surroundings: Surroundings) -> None:
        super().__init__(options, surroundings)
        self._sign: Path = surroundings.data_dir / "refuse"

    @hookimpl
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        self._look()
        await super().on_first_message(chat, message)

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        self._look()
        await super().on_message(chat, message)

    def _look(self) -> None:
        if self._sign.exists():
            raise Unstorable("no such table")
