"""What the tests of the store share: a prepared Directus, the section of the YAML for it, and looks into its rows."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import Any, cast

from plugins.directus.schema import Names
from plugins.persistence.directus import Directus
from plugins.persistence.directus_store import DirectusStore
from sidecar.ids import hash_user
from sidecar.server.running import Server
from tests.services.directus.server import DirectusServer


@dataclass(frozen=True, slots=True)
class Prepared:
    """A Directus with collections and a service user."""

    server: DirectusServer
    names: Names
    token: str

    def section(self, url: str | None = None, **options: Any) -> dict[str, Any]:
        """`persistence` of a YAML; `url`: of what stands before it."""
        told = {
            "url": url or self.server.url,
            "token": self.token,
            "collections": self.names.model_dump(),
            **options,
        }
        if told["token"] is None:
            del told["token"]
        return {"use": "directus", "options": told}

    async def rows(self, kind: str, person: str | None = None, **query: Any) -> list[dict[str, Any]]:
        """The rows of `chats`, `messages` or `devices`, of this person alone."""
        condition = {"hashed_user_id": {"_eq": hash_user(person)}} if person is not None else {"id": {"_nnull": True}}
        asked = {"filter": condition, "limit": -1, "fields": ["*"], **query}
        found: list[dict[str, Any]] = await self.server.ask(
            "SEARCH", f"/items/{getattr(self.names, kind)}", {"query": asked}
        )
        return found

    async def messages_version(self, person: str, chat: str) -> int:
        """The number of this chat that the store tells of: its row, or a message that ran ahead of it."""
        key = key_of(person, chat)
        rows = [
            *[row for row in await self.rows("chats", person) if row["id"] == key],
            *[row for row in await self.rows("messages", person) if row["chat_id"] == key],
        ]
        return max(row["messages_version"] or 0 for row in rows)

    async def edit(self, kind: str, key: str, **changes: Any) -> None:
        """As an admin in Directus does it."""
        await self.server.ask("PATCH", f"/items/{getattr(self.names, kind)}/{key}", changes)

    async def delete(self, kind: str, *keys: str) -> None:
        """As an admin in Directus does it."""
        await self.server.ask("DELETE", f"/items/{getattr(self.names, kind)}", list(keys))


def somebody() -> str:
    """A name that nobody had before, for `dev:NAME`."""
    return f"p-{secrets.token_hex(6)}"


def key_of(person: str, chat: str) -> str:
    """The key of this person's chat row."""
    return f"{hash_user(person)}_{chat}"


def store_of(server: Server) -> DirectusStore:
    return cast("DirectusStore", server.context.parts.store)


def plugin_of(server: Server) -> Directus:
    return next(each.instance for each in server.context.plugins._plugins if isinstance(each.instance, Directus))


def calls_of(server: Server) -> int:
    """How many calls left for Directus."""
    return store_of(server)._link.client.calls


def sealed_of(row: dict[str, Any], name: str) -> bytes:
    """The envelope in a row."""
    return base64.b64decode(row[name])
