"""One row of a database, read into a record as far as it can be read.

The stores differ in how a row keeps times and sealed bytes, and in which of its fields name it; the rest is one rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any

from plugins.persistence.damage import Damage
from sidecar import (
    ChatId,
    ChatInDB,
    DeviceId,
    DeviceInDB,
    KeyReference,
    MessageId,
    MessageInDB,
    Sealed,
    UserHash,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DRAFT_STATES = ("none", "edited", "consumed", "deleted")
_ROLES = ("user", "assistant", "system")


def count_of(value: object) -> int | None:
    """A version or a place; None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class Cells(ABC):
    """One row, field by field; what is not as it should be is replaced and listed in `wrong`.

    Replaced means: texts empty, versions 0, ops null, times 1970, sealed texts as bytes that do not open.
    """

    def __init__(self) -> None:
        self.wrong: list[str] = []

    @abstractmethod
    def _cell(self, name: str) -> Any:
        """What the row has under this name; None for nothing."""

    @abstractmethod
    def _time_of(self, value: Any) -> datetime | None:
        """The time that a cell keeps, aware; None if it is none."""

    @abstractmethod
    def _bytes_of(self, value: Any) -> bytes | None:
        """The sealed bytes that a cell keeps; None if these are none."""

    def text(self, name: str, otherwise: str = "") -> str:
        value = self._cell(name)
        if isinstance(value, str):
            return value
        self.wrong.append(name)
        return otherwise

    def text_or_none(self, name: str) -> str | None:
        return None if self._cell(name) is None else self.text(name) or None

    def word(self, name: str, words: tuple[str, ...], otherwise: str) -> str:
        value = self._cell(name)
        if value in words:
            return str(value)
        self.wrong.append(name)
        return otherwise

    def count(self, name: str) -> int:
        value = count_of(self._cell(name))
        if value is None:
            self.wrong.append(name)
        return value or 0

    def time(self, name: str) -> datetime:
        value = self._time_of(self._cell(name))
        if value is None:
            self.wrong.append(name)
        return value or EPOCH

    def time_or_none(self, name: str) -> datetime | None:
        value = self._cell(name)
        time = None if value is None else self._time_of(value)
        if value is not None and time is None:
            self.wrong.append(name)
        return time

    def sealed(self, name: str) -> Sealed:
        # Something that is no sealed value goes on as bytes that will not open, and so reaches the person as
        # `undecryptable`. As null it would say that the text had been cleared, and devices would drop their copies.
        value = self._cell(name)
        sealed = self._bytes_of(value)
        if sealed is not None:
            return Sealed(sealed)
        self.wrong.append(name)
        return Sealed(b"" if value is None else str(value).encode("utf-8", "replace"))

    def sealed_or_none(self, name: str) -> Sealed | None:
        return None if self._cell(name) is None else self.sealed(name)

    # -- records -------------------------------------------------------------------------------------------------------

    def chat(self, user: UserHash, chat_id: ChatId, damage: Damage) -> ChatInDB:
        draft = self.sealed_or_none("draft")
        chat = ChatInDB.model_construct(
            id=chat_id,
            hashed_user_id=user,
            vault_key_reference=KeyReference(self.text("vault_key_reference")),
            title=self.sealed_or_none("title"),
            title_version=self.count("title_version"),
            title_op=self.text_or_none("title_op"),
            draft=draft,
            version=self.count("version"),
            draft_op=self.text_or_none("draft_op"),
            draft_state=self.word("draft_state", _DRAFT_STATES, "none" if draft is None else "edited"),
            messages_version=self.count("messages_version"),
            created_at=self.time("created_at"),
            updated_at=self.time("updated_at"),
            last_message_timestamp=self.time_or_none("last_message_timestamp"),
        )
        self._note(damage, "chat", chat.id)
        return chat

    def message(self, user: UserHash, chat_id: ChatId, message_id: MessageId, damage: Damage) -> MessageInDB:
        """A role that is none of ours becomes `system`: the words are laid in nobody's mouth."""
        message = MessageInDB.model_construct(
            id=message_id,
            chat_id=chat_id,
            hashed_user_id=user,
            client_message_id=self.text_or_none("client_message_id"),
            role=self.word("role", _ROLES, "system"),
            sender_name=self.text_or_none("sender_name"),
            content=self.sealed("content"),
            sequence=self.count("sequence"),
            created_at=self.time("created_at"),
        )
        self._note(damage, "message", message.id)
        return message

    def device(self, user: UserHash, device_id: DeviceId, damage: Damage) -> DeviceInDB:
        """Without a readable secret its hash is empty, which no secret matches: the device must enrol again."""
        device = DeviceInDB.model_construct(
            id=device_id,
            hashed_user_id=user,
            secret_hash=self.text("secret_hash"),
            name=self.text("name"),
            fingerprint=self.text("fingerprint", "{}"),
            first_seen=self.time("first_seen"),
            last_seen=self.time("last_seen"),
            verified_at=self.time_or_none("verified_at"),
        )
        self._note(damage, "device", device.id)
        return device

    def _note(self, damage: Damage, kind: str, record: str) -> None:
        if self.wrong:
            damage.note(kind, record, self.wrong)
