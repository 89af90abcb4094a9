"""A plugin of your own, in one file beside your YAML."""

from __future__ import annotations

import logging
from typing import Literal

from pydantic import BaseModel

from sidecar import ChatInDB, hookimpl


class AuditLog:
    """Writes one line per settled draft. It is granted no plaintext, so it could not log any."""

    api = 1

    class Options(BaseModel, extra="forbid"):
        level: Literal["DEBUG", "INFO", "WARNING"] = "WARNING"

    def __init__(self, options: Options) -> None:
        self._level = getattr(logging, options.level)

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        logging.getLogger("audit").log(self._level, "draft of %s is now version %d", chat.id, chat.version)
