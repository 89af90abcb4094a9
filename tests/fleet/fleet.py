"""Sidecars that share one Redis, one key file and one store, as several processes of a host do."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_notices import Notices
from sidecar.server.running import Server, serving
from tests.conftest import configure
from tests.integration.world import rows
from tests.process import SidecarProcess


class Fleet:
    """Starts them: in this process and on its event loop (`serving`), or each as a process of its own (`process`).

    Each has a folder of its own, for its operators' socket. What they share stands where a single one has it, so that
    `rows(folder, …)` reads the store.
    """

    def __init__(self, folder: Path, cache: dict[str, Any]) -> None:
        """`cache` is the section of their YAML."""
        self.folder = folder
        self.cache = cache
        self._number = 0
        (folder / "data").mkdir(mode=0o700)

    def _sections(self, sections: dict[str, Any]) -> dict[str, Any]:
        """With the files that are shared; an `options` that is given is kept."""
        shared: dict[str, dict[str, Any]] = {
            "encryption": {
                "use": "local",
                "options": {
                    "path": str(self.folder / "data" / "keys"),
                    "master_key": "a master key of more than 32 characters",
                },
            },
            "persistence": {"use": "sqlite", "options": {"path": str(self.folder / "data" / "store.sqlite")}},
        }
        for name, part in shared.items():
            given = sections.get(name, {})
            if given.get("use") == "directus":
                continue  # shared as its own options say
            sections[name] = {**part, **given, "options": {**part["options"], **given.get("options", {})}}
        return {"cache": self.cache, **sections}

    def _own(self) -> Path:
        self._number += 1
        own = self.folder / f"sidecar-{self._number}"
        own.mkdir(mode=0o700)
        return own

    @asynccontextmanager
    async def serving(self, count: int = 1, **sections: Any) -> AsyncIterator[list[Server]]:
        """So many more of them: `async with fleet.serving(2, drafts=…) as (one, other)`."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(serving(configure(self._own(), **self._sections(dict(sections)))))
                for _ in range(count)
            ]

    def process(self, *, before: str = "", **sections: Any) -> SidecarProcess:
        """Another one, as a process that can be killed and stopped: `async with fleet.process() as process`."""
        return SidecarProcess(self._own(), before=before, **self._sections(sections))

    def rows(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """What the shared store's file answers."""
        return rows(self.folder, statement, *values)


def chats_of_redis(server: Server) -> RedisChats:
    return cast("RedisChats", server.context.parts.cache.chats)


def notices_of(server: Server) -> Notices:
    """What brings word from the others to this one."""
    return chats_of_redis(server)._notices


def shards_of(server: Server) -> list[str]:
    """The shards whose outbox this one works."""
    return sorted(server.context.worker._shards)


def travel(servers: Sequence[Server], seconds: float) -> None:
    """So much time passes for the cache, whoever of these asks it."""
    for server in servers:
        chats_of_redis(server)._settings.skew += seconds
