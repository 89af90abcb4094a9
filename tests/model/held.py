"""What a client holds of a chat, and what it has not been answered yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.model.reference import FieldName

Base = tuple[int, str | None]
"""A revision: version, and the operation that made it."""


@dataclass(slots=True)
class Copy:
    """A draft or title as this client last had it from the server."""

    text: str | None = None
    state: str = "none"
    version: int = 0
    op: str | None = None
    stored: bool = False
    confirmed: str = ""
    """The epoch in which the server was last known to have it."""

    @property
    def revision(self) -> Base:
        return self.version, self.op


@dataclass(slots=True)
class Message:
    text: str
    sequence: int
    status: str
    client_id: str


@dataclass(slots=True)
class Op:
    """An open operation: from the moment the person did it until its answer is known."""

    id: str
    type: str
    payload: dict[str, Any]
    token: str | None = None
    over: str | None = None
    """What the editor showed."""
    field: FieldName | None = None
    """Whose chain of revisions it goes on; None for what makes no revision."""
    base: Base = (0, None)
    sent: bool = False
    """Some server may have got it: its frame must not change."""
    waiting: bool = False
    """Sent on this connection, not answered."""
    again: bool = False
    """Answered `missing`: it goes again under a new id, after the restore."""
    resend: bool = False
    """A message that was accepted and is not delivered."""
    born: int = 0

    @property
    def makes(self) -> Base:
        return self.base[0] + 1, self.id

    @property
    def whole(self) -> dict[str, Any]:
        """The payload with the revision that it names."""
        payload = dict(self.payload)
        version, op = self.base
        if self.type in ("draft_update", "draft_delete", "title_update"):
            payload["basedOnVersion"] = version
            if op is not None:
                payload["basedOnOp"] = op
        elif self.type == "message_send" and self.field is not None:
            payload["draftVersion"] = version
            if op is not None:
                payload["draftOp"] = op
        return payload


@dataclass(slots=True)
class Held:
    """A chat on this client."""

    id: str
    draft: Copy = field(default_factory=Copy)
    title: Copy = field(default_factory=Copy)
    messages: dict[str, Message] = field(default_factory=dict)
    early: dict[str, str] = field(default_factory=dict)
    """Statuses of messages that are not here yet: an answer of this client's own may come after what follows on it."""
    known: int = 0
    """The highest messages_version that was seen."""
    counted: int = 0
    """That of the last event on this connection."""
    incomplete: bool = False
    """Its messages have to be asked for."""
    stub: bool = False
    """It was heard of and has to be asked for."""
    ops: list[Op] = field(default_factory=list)
    held: dict[tuple[str, int, str | None], int] = field(default_factory=dict)
    """Revisions that the editor showed once as they are, and since when. One that arrives behind an open edit is not shown."""
    told: bool = False
    """The server told of it: it holds a revision or a message."""
    page: str | None = None
    """The page request under way."""
    resting: bool = False
    """A part of the server was away: nothing is sent for a moment."""

    def copy(self, name: FieldName) -> Copy:
        return self.draft if name == "draft" else self.title

    def tail(self, name: FieldName) -> Op | None:
        """The last operation of this field's chain that is open."""
        return next((op for op in reversed(self.ops) if op.field == name and not op.resend), None)

    def shown(self, name: FieldName) -> tuple[str | None, Base]:
        """What the editor shows, and the revision of it."""
        tail = self.tail(name)
        if tail is None:
            copy = self.copy(name)
            return copy.text, copy.revision
        if name == "draft" and tail.type != "draft_update":
            return None, tail.makes
        return tail.token, tail.makes

    def offline(self) -> None:
        """The connection is gone: whatever was asked on it is not answered any more."""
        self.page = None
        self.resting = False
        self.counted = 0
        for op in self.ops:
            op.waiting = False
