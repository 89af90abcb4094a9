"""The records of `protocol.md`, as the wire and the store know them.

Field names are the columns of the database. Times are aware UTC datetimes, written as RFC 3339 with milliseconds and `Z`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar

from pydantic import BaseModel, ConfigDict, PlainSerializer
from pydantic import Field as ModelField

from sidecar.ids import ChatId, DeviceId, KeyReference, MessageId, UserHash

Sealed = NewType("Sealed", bytes)
"""Bytes that only the cipher opens."""

DraftState = Literal["none", "edited", "consumed", "deleted"]
Status = Literal["sending", "sent", "delivered", "streaming", "error"]
Role = Literal["user", "assistant", "system"]
Durability = Literal["cached", "stored"]

T = TypeVar("T")


@lru_cache(maxsize=1024)  # an answer and its event tell the same times
def rfc3339(time: datetime) -> str:
    """RFC 3339, UTC, milliseconds, `Z`."""
    if time.tzinfo is not UTC:
        time = time.astimezone(UTC)
    return time.isoformat(timespec="milliseconds")[:-6] + "Z"


def milliseconds(time: datetime) -> datetime:
    """The time cut to milliseconds, as every store keeps it: what is compared must have come through the same sieve."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


Time = Annotated[datetime, PlainSerializer(rfc3339, return_type=str, when_used="json")]


class Record(BaseModel):
    """A frozen record; unknown keys are ignored (a newer process may write more)."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class MessageBase(Record):
    content: Any = ModelField(repr=False)
    """A Tiptap document (a string with an end-to-end cipher); null when it does not open."""
    sender_name: str | None


class MessageResponse(MessageBase):
    id: MessageId
    chat_id: ChatId
    client_message_id: str | None
    role: Role
    status: Status
    sequence: int
    """The order in the chat, from 1, fixed for good."""
    created_at: Time


class ChatBase(Record):
    title: str | None = ModelField(default=None, repr=False)
    draft: Any = ModelField(default=None, repr=False)
    version: int = 0


class ChatResponse(ChatBase):
    """A chat as a client gets it. A key that is absent was not sent; null is cleared."""

    id: ChatId
    draft_op: str | None = None
    draft_state: DraftState = "none"
    title_version: int = 0
    title_op: str | None = None
    messages_version: int = 0
    created_at: Time | None = None
    updated_at: Time | None = None
    last_message_timestamp: Time | None = None
    persisted: bool = False
    durability: Durability = "cached"
    undecryptable: list[str] = []
    messages: list[MessageResponse] = []
    has_more_messages: bool = False


class ChatInDB(Record):
    """A chat as the store keeps it: title and draft sealed."""

    id: ChatId
    hashed_user_id: UserHash
    vault_key_reference: KeyReference
    title: Sealed | None = None
    title_version: int = 0
    title_op: str | None = None
    draft: Sealed | None = None
    version: int = 0
    draft_op: str | None = None
    draft_state: DraftState = "none"
    messages_version: int = 0
    created_at: Time
    updated_at: Time
    last_message_timestamp: Time | None = None

    @property
    def persisted(self) -> bool:
        """Whether this chat has a message, and so a row in the store."""
        return self.messages_version > 0


class MessageInDB(Record):
    """A message as the store keeps it: content sealed, for good."""

    id: MessageId
    chat_id: ChatId
    hashed_user_id: UserHash
    client_message_id: str | None
    role: Role
    sender_name: str | None
    content: Sealed
    sequence: int
    created_at: Time


class MessageInCache(MessageInDB):
    """A message with its way to the store."""

    status: Status


class DeviceInDB(Record):
    """A device of a person. Only a hash of its secret is kept."""

    id: DeviceId
    hashed_user_id: UserHash
    secret_hash: str
    """Hex SHA-256 of the device secret (256 random bits, so a plain hash is enough)."""
    name: str
    fingerprint: str = "{}"
    """JSON of the signals seen last; a signal, never a credential."""
    first_seen: Time
    last_seen: Time
    verified_at: Time | None = None


@dataclass(frozen=True, slots=True)
class Author:
    """Whose device asks for a change."""

    user: UserHash
    device: DeviceId


@dataclass(frozen=True, slots=True)
class Deleted:
    """A tombstone: this chat was deleted and its id is never used again."""

    user: UserHash
    chat_id: ChatId
    at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, newest first unless said otherwise. `total` counts the whole list, not this page."""

    items: Sequence[T]
    more: bool
    total: int


@dataclass(frozen=True, slots=True)
class Field:
    """Where a sealed value belongs; all of it is bound into the envelope, so a moved value does not open."""

    user: UserHash
    chat_id: ChatId
    name: Literal["title", "draft", "message"]
    record: str
    """The chat id for title and draft, the message id for a message."""
    version: int
    """The value's own version; 0 for messages."""
