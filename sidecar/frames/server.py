"""Every frame that the server sends: answers (with `re`) and events (without).

The server builds plain dicts; these models are for the schema and for tests (`sidecar.testing.frames.check`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from sidecar.frames.server_changes import (
    ChatAdded,
    ChatDeleted,
    ChatDeletedEvent,
    ChatInitiatedPayload,
    ChatRestored,
    ChatRestoredEvent,
    ChatStored,
    DraftConflict,
    DraftUpdated,
    DraftUpdatedEvent,
    MessageAccepted,
    MessageDeleted,
    MessageUpdate,
    MessageUpdateEvent,
    MutationAnswer,
    NewMessagePayload,
    TitleConflict,
    TitleUpdated,
    TitleUpdatedEvent,
)
from sidecar.frames.server_records import (
    ChatResponse,
    DeletedChat,
    DeviceEntry,
    ErrorPayload,
    MessageResponse,
    ProtocolRange,
    ReadyDevice,
    ServerLimits,
    ServerSoftware,
    Undecryptable,
    absent,
    unreadable,
)
from sidecar.frames.values import (
    Epoch,
    FullChatId,
    Milliseconds,
    Statement,
    WireCursor,
    WireDeviceId,
    WireTime,
    WireUserHash,
)

__all__ = ["SERVER_FRAMES", "ChatInitiatedPayload", "NewMessagePayload", "Say"]


# -- opening -----------------------------------------------------------------------------------------------------------


class Hello(Statement):
    protocol: ProtocolRange
    server: ServerSoftware
    auth_timeout_ms: Milliseconds
    limits: ServerLimits


class Ready(Statement):
    hashed_user_id: WireUserHash
    connection_id: str
    device: ReadyDevice
    session_expires_at: WireTime | None
    epoch: Epoch
    ping_interval_ms: Milliseconds
    server_time: WireTime


class ReauthRequired(Statement):
    challenge_id: str
    reason: Literal["new_device", "device_changed", "revalidate"]
    methods: list[Literal["totp"]]
    expires_in_ms: Milliseconds
    attempts_left: int


class AuthRefreshed(Statement):
    session_expires_at: WireTime | None


class SessionExpiring(Statement):
    expires_at: WireTime


class Pong(Statement):
    server_time: WireTime


# -- sync --------------------------------------------------------------------------------------------------------------


class InitialSyncData(Statement):
    phase: Literal["active", "recent", "recent_content", "rest"]
    chats: list[ChatResponse]
    last_open_chat_id: FullChatId | None
    missing: list[FullChatId] = Field(description="The server has less or nothing: send `chat_restore`.")
    deleted: list[DeletedChat]
    total: int = Field(ge=0, description="Chats of the person, from the store.")
    complete: bool
    failed: ErrorPayload = absent("This phase failed; what it should have brought was not sent.")
    reason: Literal["cursor_expired", "epoch_changed"] = absent("Why the cursor that was sent is not followed.")
    cursor: WireCursor


class SyncDelta(Statement):
    chats: list[ChatResponse]
    missing: list[FullChatId]
    deleted: list[DeletedChat]
    cursor: WireCursor
    complete: bool


class ResyncRequired(Statement):
    reason: Literal["cursor_expired", "epoch_changed", "gap", "slow_consumer"]


class MessagesPage(Statement):
    chat_id: FullChatId
    messages: list[MessageResponse] = Field(description="Oldest first.")
    has_more: bool
    undecryptable: Undecryptable = unreadable()


class ChatsPage(Statement):
    chats: list[ChatResponse]
    has_more: bool


# -- devices and the open chat ------------------------------------------------------------------------------------------


class ActiveChatSet(Statement):
    chat_id: FullChatId | None


class Devices(MutationAnswer):
    devices: list[DeviceEntry]


class DeviceAdded(Statement):
    device: DeviceEntry
    cursor: WireCursor
    device_id: WireDeviceId | None = None


@dataclass(frozen=True, slots=True)
class Say:
    """One server frame type: its payload as an answer, as an event, or both."""

    summary: str
    answer: type[Statement] | None = None
    event: type[Statement] | None = None


SERVER_FRAMES: Mapping[str, Say] = MappingProxyType(
    {
        "hello": Say("The first frame on every socket.", event=Hello),
        "ready": Say("Signed in.", answer=Ready),
        "reauth_required": Say("A second factor is asked for.", answer=ReauthRequired, event=ReauthRequired),
        "auth_refreshed": Say("The session goes on.", answer=AuthRefreshed),
        "session_expiring": Say("Sent 30 s before the session ends.", event=SessionExpiring),
        "pong": Say("A sign of life.", answer=Pong, event=Pong),  # a ping without an id has an answer without `re`
        "initial_sync_data": Say("One phase of a full sync.", answer=InitialSyncData),
        "sync_delta": Say("What changed since the cursor.", answer=SyncDelta),
        "resync_required": Say("Ask `sync_request` without a cursor.", event=ResyncRequired),
        "messages_page": Say("Older messages of a chat.", answer=MessagesPage),
        "chats_page": Say("Chats that were asked for.", answer=ChatsPage),
        "chat_initiated": Say("The draft was accepted and made the chat.", answer=ChatInitiatedPayload),
        "draft_updated": Say("A draft has a new revision.", answer=DraftUpdated, event=DraftUpdatedEvent),
        "draft_conflict": Say("Nothing changed; here is the winner.", answer=DraftConflict),
        "title_updated": Say("A title has a new revision.", answer=TitleUpdated, event=TitleUpdatedEvent),
        "title_conflict": Say("Nothing changed; here is the winner.", answer=TitleConflict),
        "chat_restored": Say("What was lost is back.", answer=ChatRestored, event=ChatRestoredEvent),
        "chat_added": Say("A chat began.", event=ChatAdded),
        "chat_stored": Say("The store has caught up.", event=ChatStored),
        "message_accepted": Say("The message is accepted.", answer=MessageAccepted),
        "message_new": Say("A message came.", event=NewMessagePayload),
        "message_update": Say("A message changed.", answer=MessageUpdate, event=MessageUpdateEvent),
        "message_deleted": Say("A message was deleted in Directus.", event=MessageDeleted),
        "active_chat_set": Say("That chat is open here now.", answer=ActiveChatSet),
        "chat_deleted": Say("The chat is deleted for good.", answer=ChatDeleted, event=ChatDeletedEvent),
        "devices": Say("The person's devices.", answer=Devices),
        "device_added": Say("Another device signed in.", event=DeviceAdded),
        "error": Say("Nothing changed; `message` says what to do.", answer=ErrorPayload, event=ErrorPayload),
    }
)
