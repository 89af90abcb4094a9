"""A place in a person's log of changes (semantics §6)."""

from __future__ import annotations

import re
from typing import Literal

from sidecar.frozen import frozen
from sidecar.ids import ChatId, ConnectionId, DeviceId

_CURSOR = re.compile(r"([0-9a-f]{20})\.([0-9]{1,15})\.([0-9a-f]{8})\Z")


@frozen
class Cursor:
    """Epoch, offset and the tag of the entry at that offset. Offset 0 is the beginning, before any entry."""

    epoch: str
    """20 hex digits, the first 12 its time in milliseconds: epochs sort by their time."""
    offset: int
    tag: str
    """8 hex digits; tells an entry from another that took its offset after a loss."""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}.{self.tag}"


BEGINNING_TAG = "00000000"


def read_cursor(text: str) -> Cursor | None:
    """The cursor that a client sent, or None for what is none of ours (which is answered as an unknown one)."""
    found = _CURSOR.match(text)
    return Cursor(found[1], int(found[2]), found[3]) if found else None


def epoch_of(milliseconds: int, random: bytes) -> str:
    """A new epoch's name, of its time and 4 random bytes."""
    return f"{milliseconds:012x}{random.hex()}"


ItemKind = Literal[
    "added",
    "draft",
    "title",
    "message",
    "message_update",
    "message_deleted",
    "restored",
    "stored",
    "deleted",
    "notice",
]


@frozen
class Item:
    """One entry of the log: a reference to what changed, never its text."""

    offset: int
    tag: str
    kind: ItemKind
    chat_id: ChatId | None
    version: int
    """Of the draft, the title or the messages, by kind."""
    ref: str | None
    """The message id of a message; the name of a notice."""
    connection: ConnectionId | None
    """The connection that asked for it: it gets an answer and not the event."""
    device: DeviceId | None


LossReason = Literal["cursor_expired", "epoch_changed"]


@frozen
class Events:
    """A stretch of the log. With `lost` set the log does not cover the cursor: `items` is empty, `head` is where it ends now."""

    items: tuple[Item, ...]
    head: Cursor
    lost: LossReason | None = None
