"""A store that some messages are poison to: it raises what nobody expected, for as long as a file says so."""

from __future__ import annotations

import re
from pathlib import Path

from plugins.persistence.sqlite import Sqlite
from sidecar import ChatInDB, MessageInDB, Surroundings, hookimpl


class PoisonedStore(Sqlite):
    class Options(Sqlite.Options):
        poison: Path
        """Holds a pattern for the clients' ids of the messages; its calls are written down beside it."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        super().__init__(options, surroundings)
        self._poison = options.poison
        self._calls = options.poison.with_name("poisoned")

    @hookimpl
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        self._meet(message)
        await super().on_first_message(chat, message)

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        self._meet(message)
        await super().on_message(chat, message)

    def _meet(self, message: MessageInDB) -> None:
        try:
            pattern = self._poison.read_text()
        except FileNotFoundError:
            return
        if re.fullmatch(pattern, message.client_message_id or ""):
            with self._calls.open("a") as file:
                file.write(f"{message.client_message_id}\n")
            raise ValueError("poison")
