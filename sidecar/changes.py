"""What a change asks, what it meets, and what came of it (semantics §2–§4): the words of `decide`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sidecar.cursors import Cursor, ItemKind
from sidecar.frozen import frozen
from sidecar.ids import ChatId, ConnectionId, DeviceId, KeyReference, MessageId, UserHash
from sidecar.records import ChatInDB, Deleted, DraftState, MessageInCache, MessageInDB, Sealed, Status


@dataclass(frozen=True, slots=True)
class Limits:
    """The core's settings that the rule and the cache need; the core sets them on `Chats.limits` before first use. Times in seconds."""

    active: int = 3
    """Chats of a person that are kept with their messages."""
    ttl: float = 1800.0
    """Sliding life of a clean chat."""
    draft_ttl: float = 1800.0
    """Sliding life of a chat without a message."""
    debounce: float = 2.0
    max_debounce: float = 10.0
    draft_chats: int = 200
    """Chats without a message that a person may have."""
    bytes: int = 32 * 1024 * 1024
    """What a person may have in the cache that cannot be evicted."""
    events_kept: int = 10_000
    events_ttl: float = 7 * 86_400.0
    outcomes_ttl: float = 86_400.0
    tombstones_ttl: float = 90 * 86_400.0
    messages_kept: int = 100
    """The newest messages of a chat that the cache keeps; one that the store has not got yet is never dropped."""


@dataclass(frozen=True)
class ChatInCache:
    """A chat as the cache keeps it. Title, draft and messages are sealed."""

    # Without slots: `having` copies a record for every change, six times as fast by its __dict__ as `dataclasses.replace`.

    id: ChatId
    user: UserHash
    key: KeyReference
    epoch: str
    """The epoch in which this record was made or merged with the store; of an older one it is merged again before use."""
    created_at: datetime
    updated_at: datetime
    title: Sealed | None = None
    title_version: int = 0
    title_op: str | None = None
    title_at: datetime | None = None
    title_device: DeviceId | None = None
    draft: Sealed | None = None
    version: int = 0
    draft_op: str | None = None
    draft_state: DraftState = "none"
    draft_at: datetime | None = None
    draft_device: DeviceId | None = None
    messages_version: int = 0
    last_sequence: int = 0
    last_message_timestamp: datetime | None = None
    stored_version: int = 0
    """The draft version that the store has."""
    stored_title_version: int = 0
    in_store: bool = False
    """Whether the store is known to have a row of this chat."""
    doomed: bool = False
    """Its deletion was accepted and only waits for its key to be destroyed: nothing else is accepted any more."""
    messages: tuple[MessageInCache, ...] = ()
    """The newest, by sequence."""
    older: bool = False
    """Whether the store has messages that are not in `messages`."""
    undelivered: int = 0
    """How many of `messages` the store has not got."""
    message_bytes: int = 0
    """What `messages` weigh."""

    @classmethod
    def of(cls, fields: dict[str, Any]) -> ChatInCache:
        """A record of all its fields, which it keeps; in one piece: several times as fast as filling it one by one."""
        record = object.__new__(ChatInCache)
        object.__setattr__(record, "__dict__", fields)
        return record

    def having(self, **changes: Any) -> ChatInCache:
        """A copy with these fields changed."""
        return ChatInCache.of(self.__dict__ | changes)

    def with_messages(self, messages: Iterable[MessageInCache], kept: int, older: bool | None = None) -> ChatInCache:
        """A copy with these messages in their order, the oldest delivered ones over `kept` left to the store."""
        ordered = sorted(messages, key=lambda message: (message.sequence, message.created_at))
        older = self.older if older is None else older
        while len(ordered) > kept and ordered[0].status == "delivered":
            del ordered[0]
            older = True
        return self.having(
            messages=tuple(ordered),
            older=older,
            undelivered=sum(message.status in ("sent", "error") for message in ordered),
            message_bytes=sum(256 + len(message.content) for message in ordered),
            last_sequence=max([self.last_sequence, *(message.sequence for message in ordered)]),
        )

    @property
    def persisted(self) -> bool:
        """Whether the chat has a message: it is more than a draft."""
        return self.messages_version > 0

    @property
    def dirty(self) -> bool:
        """Whether the store lacks the draft, the title or a message that are here."""
        return (
            self.version > self.stored_version or self.title_version > self.stored_title_version or self.undelivered > 0
        )

    @property
    def pinned(self) -> bool:
        """Whether it must not be evicted: something of it is nowhere else. It counts against the person's quota."""
        return self.dirty or self.messages_version == 0 or self.doomed

    @property
    def weight(self) -> int:
        """Bytes that count against `Limits.bytes`."""
        return 512 + len(self.draft or b"") + len(self.title or b"") + self.message_bytes

    def in_db(self) -> ChatInDB:
        """As the store keeps it."""
        return ChatInDB.model_construct(
            id=self.id,
            hashed_user_id=self.user,
            vault_key_reference=self.key,
            title=self.title,
            title_version=self.title_version,
            title_op=self.title_op,
            draft=self.draft,
            version=self.version,
            draft_op=self.draft_op,
            draft_state=self.draft_state,
            messages_version=self.messages_version,
            created_at=self.created_at,
            updated_at=self.updated_at,
            last_message_timestamp=self.last_message_timestamp,
        )


# -- what a change asks ------------------------------------------------------------------------------------------------


@frozen
class PutDraft:
    """A draft sealed for version `base_version + 1`, or None to clear it."""

    content: Sealed | None
    base_version: int
    base_op: str | None = None
    """None compares the number alone."""
    has_messages: bool = False
    """With `content` None: the client knows of a message, so the chat stays."""


@frozen
class PutTitle:
    """A title sealed for version `base_version + 1`, or None to clear it."""

    title: Sealed | None
    base_version: int
    base_op: str | None = None


@frozen
class RestoredDraft:
    content: Sealed | None
    state: DraftState
    version: int
    op: str | None


@frozen
class RestoredTitle:
    title: Sealed | None
    version: int
    op: str | None


@frozen
class Restore:
    """What a device holds after the server lost it, put back unchanged where it is higher (semantics §2)."""

    draft: RestoredDraft | None
    title: RestoredTitle | None
    messages_version: int


@frozen
class AddMessage:
    """A message; its `sequence` is given by the rule. `draft_version` names the draft revision that it was made from."""

    message: MessageInDB
    draft_version: int | None = None
    draft_op: str | None = None
    stored: bool = False
    """The store has this very message (so `sequence` is its own): only the draft is consumed, if it came back meanwhile."""
    seen: int | None = None
    """The chat's `messages_version` when the store was asked for this message. Needed where the cache has left messages to the
    store: one that is not here may have gone there since."""


@frozen
class MessageStatus:
    message_id: MessageId
    status: Status


@frozen
class MessageElsewhere:
    """Somebody else edited or deleted this message in the store. What the cache had of it was dropped before."""

    message_id: MessageId
    deleted: bool


@dataclass(frozen=True, slots=True)
class DoomChat:
    """A person deletes the chat: nothing else is accepted from now on. Then its key is destroyed, then `DeleteChat`."""


@dataclass(frozen=True, slots=True)
class DeleteChat:
    """The tombstone. The key was destroyed before."""


@frozen
class Stored:
    """The store has the draft and title up to these versions, and, where named, this message (which becomes `delivered`)."""

    version: int
    title_version: int
    message_id: MessageId | None = None


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """Begins a new epoch, unless `seen` is no longer the current one (somebody else did)."""

    seen: str


@dataclass(frozen=True, slots=True)
class Notify:
    """A log entry without a change of a chat. `erased` also appends the person to the outbox.

    `erased` and `disconnected` end the person's connections, on every process.
    """

    name: Literal["erased", "disconnected", "device_added", "device_revoked"]


What = (
    PutDraft
    | PutTitle
    | Restore
    | AddMessage
    | MessageStatus
    | MessageElsewhere
    | DoomChat
    | DeleteChat
    | Stored
    | NewEpoch
    | Notify
)


@dataclass(frozen=True, slots=True)
class FillToken:
    """Set before the store is read; an accepted change, an eviction or a drop of the chat removes it (semantics §7)."""

    user: UserHash
    value: str


@frozen
class Change:
    """One atomic step on one chat of one person."""

    user: UserHash
    device: DeviceId | None
    chat_id: ChatId
    key: KeyReference
    operation: str | None
    """The client's operation id; None for the sidecar's own changes."""
    digest: bytes
    """16 bytes of the frame, to tell a repeat from another frame under the same operation id."""
    at: datetime
    what: What
    connection: ConnectionId | None = None
    token: FillToken | None = None
    """Needed where the chat is not in the cache: proof that the store was asked and nothing happened since."""


# -- what came of it ---------------------------------------------------------------------------------------------------

ConflictReason = Literal["stale", "consumed", "deleted", "chat_deleted", "missing"]


@frozen
class Replaced:
    """Texts that a restore or a message put out of the way, each still sealed for its own revision."""

    draft: Sealed | None = None
    draft_version: int = 0
    draft_op: str | None = None
    title: Sealed | None = None
    title_version: int = 0
    title_op: str | None = None


@frozen
class Accepted:
    """The change took place, now or (`repeat`) the first time. Versions are those that it made, or found unchanged."""

    chat_id: ChatId
    version: int = 0
    op: str | None = None
    title_version: int = 0
    title_op: str | None = None
    messages_version: int = 0
    at: datetime | None = None
    created: bool = False
    """This made the chat."""
    repeat: bool = False
    consumed: bool = False
    message: MessageInCache | None = None
    """Of AddMessage: as it is now."""
    replaced: Replaced | None = None
    deleted: Deleted | None = None
    """The tombstone, of DeleteChat."""
    doomed: bool = False
    """The chat is to be deleted: destroy its key, then commit DeleteChat."""
    chat: ChatInCache | None = None
    """The record after the step. A cache on a server leaves its messages out (`messages` empty): nobody asks for them here."""
    draft_lost: ConflictReason | None = None
    """Of Restore: why the draft was not put back while the rest was taken (an equal version with another operation id, or a lower one)."""
    cursor: Cursor | None = None
    """Where the log stands after this step; None when nothing was appended."""


@frozen
class Conflict:
    """Nothing changed. `chat` is the winner, read in the same step (its messages may be left out); a tombstone with reason `chat_deleted`."""

    reason: ConflictReason
    chat: ChatInCache | Deleted | None = None
    repeat: bool = False


@dataclass(frozen=True, slots=True)
class Unmerged:
    """Nothing changed: the chat is not here (or only of an older epoch) and the token is not valid, or a message may be in the
    store alone (`AddMessage.seen`). Ask the store, then commit again."""


@dataclass(frozen=True, slots=True)
class OverQuota:
    """Nothing changed: a limit per person is reached."""

    what: Literal["draft_chats", "bytes"]
    limit: int


@dataclass(frozen=True, slots=True)
class Reused:
    """Nothing changed: this operation id was used with another frame."""


Outcome = Accepted | Conflict | Unmerged | OverQuota | Reused

EntryKind = Literal["first_message", "message", "draft", "title", "deleted", "erased"]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the outbox: it names the chat and the kind; what is delivered is the state at delivery."""

    id: str
    """Sorts in the order of the outbox, within its shard."""
    user: UserHash
    chat_id: ChatId | None
    """None for `erased`."""
    kind: EntryKind
    message_id: MessageId | None
    at: datetime
    tries: int = 0


@frozen
class Remembered:
    """What is kept of an operation for 24 h: ids, versions, times; never text but a sealed `replaced`."""

    digest: bytes
    at: datetime
    chat_id: ChatId
    accepted: bool
    reason: ConflictReason | None = None
    kind: Literal["draft", "title", "message", "restore", "delete"] = "draft"
    version: int = 0
    op: str | None = None
    title_version: int = 0
    title_op: str | None = None
    messages_version: int = 0
    message_id: MessageId | None = None
    created: bool = False
    consumed: bool = False
    draft_lost: ConflictReason | None = None
    replaced: Replaced | None = None


@frozen
class Usage:
    """What a person has in the cache that cannot be evicted."""

    draft_chats: int = 0
    bytes: int = 0


@frozen
class View:
    """All that the rule looks at, read in the same atomic step."""

    epoch: str
    chat: ChatInCache | None = None
    tombstone: Deleted | None = None
    remembered: Remembered | None = None
    usage: Usage = field(default_factory=Usage)
    token_valid: bool = False


@frozen
class NewItem:
    """A log entry to append."""

    kind: ItemKind
    version: int = 0
    ref: str | None = None


@frozen
class NewEntry:
    """An outbox entry to append."""

    kind: EntryKind
    message_id: MessageId | None = None


@frozen
class Decision:
    """What the shell has to do, all of it in one atomic step, and what it answers. None and empty mean: leave as it is."""

    outcome: Outcome
    chat: ChatInCache | None = None
    tombstone: Deleted | None = None
    """Put this, and drop the chat and its pending entries of other kinds."""
    remember: Remembered | None = None
    forget: bool = False
    """The remembered outcome no longer holds."""
    items: tuple[NewItem, ...] = ()
    entries: tuple[NewEntry, ...] = ()
    due: bool = False
    """A draft or title changed: it is due for the store after the debounce."""
    new_epoch: bool = False
    """Begin a new epoch; the log starts anew in it."""
