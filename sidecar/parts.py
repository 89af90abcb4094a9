"""What every use case works with: the four slots, the hooks, the settings, the clock. One frozen record, passed down."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from sidecar.documents import Document
from sidecar.ids import ChatId, ConnectionId, DeviceId, KeyReference, UserHash
from sidecar.metrics import Metrics
from sidecar.records import Author, ChatInDB, milliseconds
from sidecar.settings import Settings
from sidecar.slots.authenticator import Authenticator
from sidecar.slots.cache import Cache
from sidecar.slots.cipher import Cipher
from sidecar.slots.store import Store
from sidecar.sync_pages import SyncAnswer


def utc_now() -> datetime:
    """Now, in UTC, cut to milliseconds."""
    return milliseconds(datetime.now(UTC))


class Hooked(Protocol):
    """What the use cases ask of the loaded plugins (`sidecar.hooks.Plugins`)."""

    guards_drafts: bool
    guards_messages: bool

    async def guard_draft(
        self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document
    ) -> None: ...
    async def guard_message(
        self, author: Author, chat_id: ChatId, chat: ChatInDB | None, plaintext: Document
    ) -> None: ...
    async def sync(self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int) -> SyncAnswer: ...


class References:
    """Key references of chats that this process has seen: a draft is sealed without asking for its record first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[UserHash, ChatId], KeyReference] = OrderedDict()

    def get(self, user: UserHash, chat_id: ChatId) -> KeyReference | None:
        return self._kept.get((user, chat_id))

    def keep(self, user: UserHash, chat_id: ChatId, key: KeyReference) -> None:
        self._kept[user, chat_id] = key
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def drop(self, user: UserHash, chat_id: ChatId) -> None:
        self._kept.pop((user, chat_id), None)


@dataclass(frozen=True)
class Parts:
    auth: Authenticator
    cipher: Cipher
    cache: Cache
    store: Store
    plugins: Hooked
    settings: Settings
    metrics: Metrics
    now: Callable[[], datetime] = utc_now
    references: References = field(default_factory=lambda: References(50_000))


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose connection asks."""

    user: UserHash
    device: DeviceId
    connection: ConnectionId
    name: str | None
    """The person's name, for `sender_name`."""

    @property
    def author(self) -> Author:
        return Author(self.user, self.device)
