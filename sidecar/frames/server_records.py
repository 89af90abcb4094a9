"""What the payloads of server frames are made of: chats, messages, devices, texts, the error."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from sidecar import records
from sidecar.frames.errors import Code
from sidecar.frames.values import (
    FrameId,
    FullChatId,
    MadeVersion,
    Milliseconds,
    Statement,
    Version,
    WireDeviceId,
    WireMessageId,
    WireTime,
)

EditReason = Literal["edited", "consumed", "deleted"]
ConflictReason = Literal["stale", "consumed", "deleted", "chat_deleted", "missing"]
ServerStatus = Literal["sent", "delivered", "streaming", "error"]
"""`sending` is a client's own word for what it has not sent yet."""
Undecryptable = list[str]


def absent(description: str | None = None, *, least: int | None = None, secret: bool = False) -> Any:
    """A key that may be absent, and is never null when it is there. A `secret` one is kept out of reprs."""
    return Field(default=None, description=description, ge=least, repr=not secret)


def unreadable() -> Any:
    """The key that names the fields of this payload that did not open; absent when all did."""
    return absent("The fields that did not open (`title`, `draft`, a message id); each of them is null here.")


class MessageResponse(records.MessageResponse):
    """A message as a client gets it. The keys are those of the database."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    content: Any = Field(repr=False, description="As it came; null when it does not open.")
    id: WireMessageId  # type: ignore[assignment]  # the same id, with its grammar
    chat_id: FullChatId  # type: ignore[assignment]
    status: ServerStatus
    sequence: int = Field(ge=1, description="The order in the chat, fixed for good.")
    created_at: WireTime


class ChatResponse(records.ChatResponse):
    """A chat as a client gets it. The keys are those of the database; an absent key was not sent, null is cleared."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    id: FullChatId  # type: ignore[assignment]
    title: str | None = Field(default=None, repr=False)
    draft: Any = Field(default=None, repr=False, description="As it came; null when there is none or it does not open.")
    version: Version = absent()
    draft_op: FrameId | None = None
    draft_state: records.DraftState = absent()
    title_version: Version = absent()
    title_op: FrameId | None = None
    messages_version: Version = absent()
    created_at: WireTime = absent()
    updated_at: WireTime = absent()
    last_message_timestamp: WireTime | None = None
    persisted: bool = absent("Whether it has a message, and so a row in the store.")
    durability: records.Durability = absent()
    undecryptable: Undecryptable = absent("The fields that did not open; each of them is null.")
    messages: list[MessageResponse] = absent("By `sequence`, oldest first; absent when left out in this phase.")  # type: ignore[assignment]
    has_more_messages: bool = absent("Whether there are older messages than those here.")


class DeletedChat(Statement):
    id: FullChatId
    deleted_at: WireTime


class ReplacedDraft(Statement):
    content: Any = Field(repr=False)
    version: MadeVersion
    op: FrameId | None


class ReplacedTitle(Statement):
    title: str | None = Field(repr=False)
    version: MadeVersion
    op: FrameId | None


class Replaced(Statement):
    """Texts that a restore or a message put out of the way, each with its revision: they become conflict copies."""

    draft: ReplacedDraft = absent()
    title: ReplacedTitle = absent()


class DeviceEntry(Statement):
    id: WireDeviceId
    name: str
    current: bool = Field(description="Whether it is the device that this socket belongs to.")
    first_seen: WireTime
    last_seen: WireTime
    verified_at: WireTime | None


class ReadyDevice(Statement):
    id: WireDeviceId
    secret: str = absent("Only when one was just issued.", secret=True)
    name: str
    is_new: bool


class ProtocolRange(Statement):
    min: int
    max: int


class ServerSoftware(Statement):
    name: str
    version: str


class ServerLimits(Statement):
    max_frame_bytes: int
    max_draft_bytes: int
    max_title_length: int
    frames_per_second: float | int


class ErrorPayload(Statement):
    code: Code
    message: str = Field(description="Says what to do; never repeats content.")
    retryable: bool = Field(description="Whether the same frame, same id, may go through later.")
    retry_after_ms: Milliseconds = absent()
    details: dict[str, Any] = absent()
