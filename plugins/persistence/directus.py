"""`persistence.directus`: chats, messages and devices in three collections of a Directus, sealed values only.

It writes down what it hears through the hooks; `DirectusStore` reads it back. The parts, from here down: `directus_store`,
`directus_messages` and `directus_reads` (reads), `directus_writes`, `directus_merge` and `directus_ahead` (what a write does to rows),
`directus_rewrites` and `directus_removals`, `directus_changes` and `directus_looks` (what others do to rows), `directus_link` (the way
there, looked at before it is used), `directus_rows` (rows and records); `plugins.directus` is what all plugins of Directus share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from plugins.directus.administration import administrator
from plugins.directus.bootstrap import bootstrap
from plugins.directus.findings import account_finding, server_findings
from plugins.directus.notices import Notices
from plugins.directus.options import DirectusOptions
from plugins.directus.store_findings import needed_for_store, store_findings
from plugins.persistence.damage import Damage
from plugins.persistence.directus_absent import Absent
from plugins.persistence.directus_ahead import Ahead
from plugins.persistence.directus_changes import Changes
from plugins.persistence.directus_link import Link
from plugins.persistence.directus_removals import Removals
from plugins.persistence.directus_rewrites import Devices
from plugins.persistence.directus_store import DirectusStore
from plugins.persistence.directus_writes import Writes
from sidecar import (
    ChatId,
    ChatInDB,
    Deleted,
    Duration,
    Elsewhere,
    Finding,
    MessageInDB,
    Page,
    Store,
    UserHash,
    hookimpl,
)

_SHORTEST_SECRET = 16


class Directus:
    """The persistence slot on a Directus.

    One that answers and cannot be used refuses the start (`StartRefused`): a wrong address or token, a missing collection, field
    or permission. One that does not answer is waited for.
    """

    api = 1

    class Options(DirectusOptions, extra="forbid"):
        changes: Literal["websocket", "look", "notices"] = Field(
            default="websocket",
            description="How changes made in Directus are heard. `websocket`: within a second, deletions too. `look`: edits are looked for "
            "every second; deletions come by notices from a Flow, if at all. `notices`: by those alone.",
        )
        notice_secret: SecretStr | None = Field(
            default=None,
            description="With which notices to POST /v1/hooks/persistence are signed; none are taken without it.",
        )

        write_timeout: Annotated[float, Duration(0.5, 120)] = Field(
            default=4.5, description="What a write may take, its wait included; below the section's own `timeout`."
        )

        @field_validator("notice_secret")
        @classmethod
        def _long_enough(cls, secret: SecretStr | None) -> SecretStr | None:
            if secret is not None and len(secret.get_secret_value()) < _SHORTEST_SECRET:
                raise ValueError(f"is shorter than {_SHORTEST_SECRET} characters, so can be guessed; take a longer one")
            return secret

    def __init__(self, options: Options) -> None:
        self._options = options
        self._link = Link(options)
        self._damage = Damage("sidecar.persistence.directus")
        self._changes = Changes(self._link, options.changes)
        ahead, self._absent = Ahead(), Absent()
        self._writes = Writes(self._link, self._changes, ahead, self._absent, options.write_timeout)
        self._removals = Removals(self._link, self._changes, ahead, options.write_timeout)
        devices = Devices(self._link, options.write_timeout)
        self._store = DirectusStore(self._link, devices, self._removals, self._changes, self._absent, self._damage)
        self._notices = Notices(options.notice_secret)

    async def __aenter__(self) -> Directus:
        await self._link.__aenter__()
        await self._writes.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._writes.__aexit__()
        finally:
            await self._link.__aexit__()

    def state(self) -> Mapping[str, object]:
        """For `/readyz`: whether the last call went through, whether changes are heard, how many damaged rows were met. Asks nothing."""
        fault = self._link.fault or self._writes.fault
        return {
            "state": "ok" if fault is None else "unavailable",
            **({} if fault is None else {"reason": fault}),
            "listening": self._changes.listening,
            "calls": self._link.client.calls,
            "changes_of_others": self._changes.heard,
            "notices": self._notices.taken,
            "damaged_rows": self._damage.rows,
        }

    async def notice(self, headers: Mapping[str, str], body: bytes) -> Sequence[Elsewhere]:
        """What a signed notice tells of: `{event, collection, keys}`. Raises `Unauthenticated` for one that is not ours, `Refused` for
        one that says nothing. A hint and no truth: whoever acts on it reads the row first."""
        collection, keys, deleted = self._notices.read(headers, body)
        return self._changes.of_keys(collection, keys, deleted=deleted)

    def notice_id(self, headers: Mapping[str, str], body: bytes) -> str:
        """What of a notice is signed."""
        return self._notices.identity(headers, body)

    async def bootstrap(self, dry_run: bool) -> Sequence[str]:
        """Collections, fields, relation, policy and service user that are missing."""
        needed = needed_for_store(self._options.collections)
        return await bootstrap(self._options, needed, part="persistence", dry_run=dry_run)

    async def findings(self) -> Sequence[Finding]:
        """For `sidecar doctor`. Raises `StartRefused` where an administrator is named and refused, and `Unavailable`."""
        client = self._link.client
        if (finding := await account_finding(client)) is not None:
            return [finding]
        async with administrator(client) as admin:
            return [
                *await server_findings(client, admin),
                *await store_findings(client, self._options.collections, admin),
            ]

    @hookimpl
    async def provide_persistence(self) -> Store:
        """The reads."""
        return self._store

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        """Draft and title, each where it is newer. A chat without a message causes no call at all."""
        if chat.persisted:
            await self._writes.put(chat)

    @hookimpl
    async def on_title(self, chat: ChatInDB) -> None:
        """As `on_draft`: the state at delivery is written, whatever changed."""
        if chat.persisted:
            await self._writes.put(chat)

    @hookimpl
    async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        """Chat and message in one call and one transaction."""
        await self._writes.put(chat, message)

    @hookimpl
    async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None:
        """As `on_first_message`: the chat's row is made here too if it was lost."""
        await self._writes.put(chat, message)

    @hookimpl
    async def on_chat_deleted(self, chat: Deleted) -> None:
        """Chat and messages go."""
        await self._removals.delete(chat)

    @hookimpl
    async def on_user_erased(self, user: UserHash) -> None:
        """Everything of this person goes."""
        await self._removals.erase(user)

    @hookimpl
    async def on_sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> Page[ChatInDB]:
        """The person's chats, newest first by (updated_at, id)."""
        return await self._store.chats(user, before, limit)
