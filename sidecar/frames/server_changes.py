"""Server frames about chats, drafts, titles and messages: what answers a change, and what tells the other connections."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from sidecar.frames.server_records import (
    ChatResponse,
    ConflictReason,
    EditReason,
    MessageResponse,
    Replaced,
    ServerStatus,
    Undecryptable,
    absent,
    unreadable,
)
from sidecar.frames.values import (
    FrameId,
    FullChatId,
    MadeVersion,
    Statement,
    TempChatId,
    Version,
    WireCursor,
    WireDeviceId,
    WireMessageId,
    WireTime,
)
from sidecar.records import Durability


class MutationAnswer(Statement):
    cursor: WireCursor = absent("Where the log stands after the change; absent when nothing was appended.")


class LogEvent(Statement):
    """An event of the person's log."""

    cursor: WireCursor
    device_id: WireDeviceId | None = Field(description="The device that asked for the change; null when none did.")


# -- drafts and titles -------------------------------------------------------------------------------------------------


class ChatInitiatedPayload(MutationAnswer):
    temp_chat_id: TempChatId
    final_chat_id: FullChatId
    version: Version
    op: FrameId | None
    durability: Durability
    chat: ChatResponse


class DraftUpdated(MutationAnswer):
    chat_id: FullChatId
    version: Version
    op: FrameId | None
    durability: Durability
    updated_at: WireTime
    reason: EditReason = absent()


class DraftUpdatedEvent(LogEvent):
    chat_id: FullChatId
    version: Version
    op: FrameId | None
    durability: Durability
    updated_at: WireTime
    content: Any = Field(repr=False, description="null: cleared.")
    reason: EditReason
    undecryptable: Undecryptable = unreadable()


class DraftConflict(MutationAnswer):
    """The draft did not change; the rest is the winner."""

    chat_id: FullChatId
    temp_chat_id: TempChatId = absent()
    version: Version
    op: FrameId | None
    content: Any = Field(repr=False, description="null: there is no text.")
    updated_at: WireTime | None = Field(description="null when the server knows nothing of the chat.")
    device_id: WireDeviceId | None
    reason: ConflictReason
    replaced: Replaced = absent()
    undecryptable: Undecryptable = unreadable()


class TitleUpdated(MutationAnswer):
    chat_id: FullChatId
    title: str | None = Field(repr=False)
    title_version: Version
    op: FrameId | None
    durability: Durability


class TitleUpdatedEvent(LogEvent):
    chat_id: FullChatId
    title: str | None = Field(repr=False)
    title_version: Version
    op: FrameId | None
    durability: Durability
    undecryptable: Undecryptable = unreadable()


class TitleConflict(MutationAnswer):
    """Nothing changed; the rest is the winner."""

    chat_id: FullChatId
    title: str | None = Field(repr=False)
    title_version: Version
    op: FrameId | None
    updated_at: WireTime | None
    device_id: WireDeviceId | None = None
    reason: ConflictReason
    undecryptable: Undecryptable = unreadable()


class ChatRestored(MutationAnswer):
    chat_id: FullChatId
    chat: ChatResponse
    replaced: Replaced = absent()
    durability: Durability
    undecryptable: Undecryptable = unreadable()


class ChatRestoredEvent(LogEvent):
    chat_id: FullChatId
    chat: ChatResponse
    durability: Durability


class ChatAdded(LogEvent):
    chat: ChatResponse
    temp_chat_id: TempChatId


class ChatStored(Statement):
    """The store has caught up; the author gets it too."""

    chat_id: FullChatId
    version: Version
    title_version: Version
    cursor: WireCursor
    device_id: WireDeviceId | None = None


# -- messages, chats and devices ---------------------------------------------------------------------------------------


class MessageAccepted(MutationAnswer):
    chat_id: FullChatId
    temp_chat_id: TempChatId = absent()
    message: MessageResponse
    messages_version: MadeVersion
    version: Version = Field(description="Of the draft, as it is now.")
    op: FrameId | None
    consumed: bool
    replaced: Replaced = absent()
    durability: Durability
    undecryptable: Undecryptable = unreadable()


class NewMessagePayload(Statement):
    message: MessageResponse
    messages_version: MadeVersion
    cursor: WireCursor
    device_id: WireDeviceId | None = None
    piece: int = absent("While streaming: the piece that the content reaches to.", least=0)
    undecryptable: Undecryptable = unreadable()


class MessageUpdate(Statement):
    chat_id: FullChatId
    message_id: WireMessageId
    status: ServerStatus
    messages_version: MadeVersion
    piece: int = absent("While streaming: its number, from 1.", least=1)
    append: list[Any] = absent("While streaming: the nodes of this piece.", secret=True)
    content: Any = absent("At the end of a stream: the whole.", secret=True)
    cursor: WireCursor = absent("Absent only on the pieces of a stream, which are not in the log.")
    device_id: WireDeviceId | None = None

    @model_validator(mode="after")
    def _piece_or_change(self) -> Self:
        given = self.model_fields_set
        if ("piece" in given) is not ("append" in given):
            raise PydanticCustomError("piece", "goes together with `append`", {"key": "piece"})
        return self


class MessageUpdateEvent(MessageUpdate):
    @model_validator(mode="after")
    def _of_the_log(self) -> Self:
        if not self.model_fields_set & {"piece", "cursor"}:
            raise PydanticCustomError("missing", "is missing", {"key": "cursor"})
        return self


class MessageDeleted(Statement):
    chat_id: FullChatId
    message_id: WireMessageId
    messages_version: MadeVersion
    cursor: WireCursor
    device_id: WireDeviceId | None = None


class ChatDeleted(MutationAnswer):
    chat_id: FullChatId
    deleted_at: WireTime


class ChatDeletedEvent(LogEvent):
    chat_id: FullChatId
    deleted_at: WireTime
