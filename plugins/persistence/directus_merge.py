"""What a write changes of the row that is there: nothing is lowered, nothing is overwritten by what is not newer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from plugins.persistence.cells import count_of
from plugins.persistence.directus_rows import Row, chat_key, chat_row, message_key, message_row, read_time
from sidecar import ChatInDB, MessageInDB, Unstorable

STATE_FIELDS = (
    "id",
    "vault_key_reference",
    "title_version",
    "version",
    "messages_version",
    "created_at",
    "updated_at",
    "last_message_timestamp",
    "changed_at",
    "changed_by",
    "ahead",
)
"""What must be known of a row before it is written; its texts are not among it."""

_DRAFT = ("draft", "version", "draft_op", "draft_state")
_TITLE = ("title", "title_version", "title_op")
_OVERHEAD = 700
"""Bytes of a row beside its texts, as JSON."""


@dataclass(frozen=True, slots=True)
class Write:
    """A chat, and perhaps a message of it, to be stored."""

    key: str
    chat: ChatInDB
    row: Mapping[str, Any]
    message: MessageInDB | None
    message_key: str | None
    message_row: Mapping[str, Any] | None
    behind: bool = False
    """The chat's row follows messages that were written without it; it makes no row."""

    @classmethod
    def of(cls, chat: ChatInDB, message: MessageInDB | None) -> Self:
        """Raises `Unstorable` for what no database takes."""
        key = chat_key(chat.hashed_user_id, chat.id)
        if message is None:
            return cls(key, chat, chat_row(chat), None, None, None)
        own = message_key(message.hashed_user_id, message.chat_id, message.id)
        return cls(key, chat, chat_row(chat), message, own, message_row(message))


@dataclass(slots=True)
class Unit:
    """What is written of one chat, in one piece."""

    key: str
    exists: bool
    changes: dict[str, Any]
    """Of its row, all of it where there is none."""
    writes: list[tuple[int, Write]] = field(default_factory=list)
    messages: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By key, those that are not stored yet."""

    @property
    def behind(self) -> bool:
        """Whether all of it follows messages that were written before."""
        return all(write.behind for _, write in self.writes)

    @property
    def rows(self) -> int:
        """As Directus counts them: nested ones too."""
        return len(self.messages) + bool(self.changes)

    @property
    def bytes(self) -> int:
        texts = [self.changes.get("title"), self.changes.get("draft")]
        texts += [row.get(name) for row in self.messages.values() for name in ("content", "sender_name")]
        return _OVERHEAD * self.rows + sum(len(each) for each in texts if each)

    def plain_rows(self) -> Sequence[Mapping[str, Any]]:
        """The messages, each with the number that the chat's row would get."""
        numbers = {write.message_key: write.row["messages_version"] for _, write in self.writes}
        return [{**row, "messages_version": numbers[key]} for key, row in self.messages.items()]

    def message_rows(self) -> Sequence[Mapping[str, Any]]:
        """With the first one comes what changes of the chat, so that all of it is one transaction."""
        rows = [dict(row) for row in self.messages.values()]
        if self.changes:
            rows[0]["chat_id"] = {"id": self.key, **self.changes}
        return rows

    def settle(self, answers: MutableMapping[int, Exception | None], answer: Exception | None) -> None:
        """This came of all its writes."""
        for number, _ in self.writes:
            answers[number] = answer


def units_of(
    writes: Sequence[tuple[int, Write]],
    rows: Mapping[str, Row],
    stored: set[str],
    answers: MutableMapping[int, Exception | None],
) -> list[Unit]:
    """One unit for each chat, in the order of their first writes. What cannot be written is answered, and left out."""
    units: dict[str, Unit] = {}
    states: dict[str, dict[str, Any]] = {}
    for number, write in writes:
        there = rows.get(write.key)
        state = states.get(write.key)
        if state is None:
            state = dict(there) if there is not None else {}
        reference = state.get("vault_key_reference")
        if isinstance(reference, str) and reference not in ("", write.row["vault_key_reference"]):
            # A chat has one key for good. Two texts of one chat under two references: one of them would never open again.
            answers[number] = Unstorable(f"chat {write.chat.id}: the store has it under another key reference")
            continue
        changes = changes_of(state, write.row) if state else dict(write.row)
        states[write.key] = state | changes
        unit = units.setdefault(write.key, Unit(write.key, there is not None, {}))
        unit.changes |= changes
        unit.writes.append((number, write))
        if write.message_key is not None and write.message_row is not None and write.message_key not in stored:
            unit.messages.setdefault(write.message_key, write.message_row)
    return list(units.values())


def changes_of(there: Row, new: Mapping[str, Any]) -> dict[str, Any]:
    """What of `new` is newer than the row. A version that is no number is below every other: the next write mends the row."""
    changes: dict[str, Any] = {}
    for version, names in (("version", _DRAFT), ("title_version", _TITLE)):
        known = count_of(there.get(version))
        if known is None or new[version] > known:
            changes |= {name: new[name] for name in names}
    messages_version = count_of(there.get("messages_version"))
    if messages_version is None or new["messages_version"] > messages_version:
        changes["messages_version"] = new["messages_version"]
    if not there.get("vault_key_reference"):
        changes["vault_key_reference"] = new["vault_key_reference"]
    if read_time(there.get("created_at")) is None:
        changes["created_at"] = new["created_at"]
    for name in ("updated_at", "last_message_timestamp"):
        known_time, new_time = read_time(there.get(name)), read_time(new[name])
        if new_time is not None and (known_time is None or new_time > known_time):
            changes[name] = new[name]
    return changes
