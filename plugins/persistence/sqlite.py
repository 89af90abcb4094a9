"""`persistence.sqlite`: chats, messages and devices in one SQLite file, sealed values only.

It writes down what it hears through the hooks; `SqliteStore` reads it back. The parts, from here down:
`sqlite_store` (reads), `sqlite_writes` (what a write does to rows), `sqlite_connections` (threads, transactions),
`sqlite_rows` (rows and records), `sqlite_schema` (the file), `sqlite_faults` (errors).

Several processes of one host may share the file. It must lie on a local disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, Field, field_validator

from plugins.persistence import sqlite_writes as writes
from plugins.persistence.damage import Damage
from plugins.persistence.sqlite_connections import Connections
from plugins.persistence.sqlite_store import SqliteStore
from sidecar import ChatId, ChatInDB, Deleted, Finding, MessageInDB, Page, Store, Surroundings, UserHash, hookimpl


class Sqlite:
    """The persistence slot on one file."""

    api = 1

    class Options(BaseModel, extra="forbid"):
        path: Path | None = Field(
            default=None, description="the database file, 0600; default: store.sqlite in data_dir"
        )

        @field_validator("path")
        @classmethod
        def _a_file(cls, path: Path | None) -> Path | None:
            if path is not None and (path.name in ("", ":memory:") or str(path).startswith("file:")):
                raise ValueError("write the path of a file; the store cannot live in memory")
            return path

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._path = surroundings.data_dir / (options.path or Path("store.sqlite")).expanduser()
        self._damage = Damage("sidecar.persistence.sqlite")
        self._connections = Connections(self._path)
        self._store = SqliteStore(self._connections, self._damage)

    async def __aenter__(self) -> Sqlite:
        await self._connections.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connections.__aexit__(kind, error, trace)

    def state(self) -> Mapping[str, object]:
        """For `/readyz`: whether the last call went through, and how many damaged rows were met. Asks nothing of the disk."""
        fault = self._connections.fault
        return {
            "state": "ok" if fault is None else "unavailable",
            **({} if fault is None else {"reason": fault}),
            "damaged_rows": self._damage.rows,
        }

    def findings(self) -> Sequence[Finding]:
        """For `doctor`: what calls met since the start."""
        found = []
        if self._connections.fault is not None:
            remedy = "make room on its disk, or see who else holds the file"
            found.append(Finding("file", "error", f"{self._path} cannot be used: {self._connections.fault}", remedy))
        if self._damage.rows:
            found.append(
                Finding(
                    "damaged-rows",
                    "error",
                    f"{self._damage.rows} damaged rows were met in {self._path}; they are left as they are",
                    "look for them in the log, and bring them back from a backup",
                )
            )
        return found

    @hookimpl
    async def provide_persistence(self) -> Store:
        """The reads."""
        return self._store

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        """Draft and title, each where it is newer. A chat without a message leaves no trace here."""
        await self._put_chat(chat)

    @hookimpl
    async def on_title(self, chat: ChatInDB) -> None:
        """As `on_draft`: the state at delivery is written, whatever changed."""
        await self._put_chat(chat)

    @hookimpl
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        """Chat and message in one transaction."""
        await self._connections.write(lambda connection: writes.put_message(connection, chat, message))

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        """As `on_first_message`: the chat's row is made here too if it was lost."""
        await self._connections.write(lambda connection: writes.put_message(connection, chat, message))

    @hookimpl
    async def on_chat_deleted(self, chat: Deleted) -> None:
        """Chat and messages go; a mark stays, so that what arrives late brings nothing back."""
        await self._connections.write(lambda connection: writes.delete_chat(connection, chat))

    @hookimpl
    async def on_user_erased(self, user: UserHash) -> None:
        """Everything of this person goes, out of the write-ahead log too as far as no reader holds it."""
        await self._connections.write(lambda connection: writes.erase_user(connection, user), scrub=True)

    @hookimpl
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        """The person's chats, newest first by (updated_at, id)."""
        return await self._store.chats(user, before, limit)

    async def _put_chat(self, chat: ChatInDB) -> None:
        if chat.persisted:
            await self._connections.write(lambda connection: writes.put_chat(connection, chat))
