"""Every frame that a client may send: its payload, and what answers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sidecar.frames.values import (
    ClientMessageId,
    FrameId,
    MadeVersion,
    Payload,
    TempChatId,
    Version,
    WireChatId,
    WireDeviceId,
    WireMessageId,
    WireTime,
)
from sidecar.records import DraftState

Short = Annotated[str, StringConstraints(max_length=256)]
_CONTENT = "A Tiptap document; with an end-to-end cipher a string."


def _one_of(one: str, other: str) -> ConfigDict:
    # JSON Schema's own word for "exactly one of the two", null counting as absent.
    ways = [{"required": [key], "properties": {key: {"type": "string"}}} for key in (one, other)]
    return ConfigDict(json_schema_extra={"oneOf": ways})  # type: ignore[dict-item]  # a JSON value, nested deeper than mypy follows


# -- opening -----------------------------------------------------------------------------------------------------------


class DeviceProof(Payload):
    """The device that the server issued to this client."""

    id: Short
    secret: Short = Field(repr=False)


class Signals(Payload):
    """What the client says of itself; a signal, never a credential."""

    language: Short | None = None
    timezone: Short | None = None
    screen: Short | None = None
    platform: Short | None = None


class ClientSoftware(Payload):
    name: Short
    version: Short


class Auth(Payload):
    token: str | None = Field(default=None, repr=False, description="Absent in cookie mode.")
    protocol: Version = Field(description="The protocol version that the client speaks.")
    device: DeviceProof | None = None
    signals: Signals | None = None
    client: ClientSoftware | None = None


class Reauth(Payload):
    challenge_id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    method: Literal["totp"]
    code: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")] = Field(repr=False)


class AuthRefresh(Payload):
    token: str = Field(repr=False)


class Empty(Payload):
    """Nothing is asked for; `payload` may be left out."""


# -- sync --------------------------------------------------------------------------------------------------------------


class HeldChat(Payload):
    """The revisions that a client holds of one chat."""

    id: WireChatId
    version: Version
    op: FrameId | None = None
    title_version: Version
    title_op: FrameId | None = None
    messages_version: Version


class SyncRequest(Payload):
    cursor: Short | None = Field(default=None, description="The last one that the client applied.")
    chats: list[HeldChat] = Field(default=[], max_length=1000, description="What the client holds, newest first.")
    last_open_chat_id: WireChatId | None = None


class MessagesRequest(Payload):
    chat_id: WireChatId
    before: WireMessageId | None = Field(default=None, description="The oldest message that the client holds.")
    limit: int = Field(ge=1, le=200)


class ChatsBefore(Payload):
    """The place after which a page of chats begins: the last chat of the page before."""

    timestamp: WireTime
    id: WireChatId


class ChatsRequest(Payload):
    """Chats by id, or a page of all chats, newest first; a page needs a `limit`."""

    ids: list[WireChatId] | None = Field(default=None, max_length=100)
    before: ChatsBefore | None = None
    limit: int = Field(default=100, ge=1, le=100)

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.ids is not None and self.before is not None:
            raise PydanticCustomError("both", "goes not together with `ids`; send one of them", {"key": "before"})
        if self.ids is None and "limit" not in self.model_fields_set:
            raise PydanticCustomError("missing", "is missing", {"key": "limit"})
        return self


# -- drafts and titles -------------------------------------------------------------------------------------------------


class _OfChat(Payload):
    """Something said to a chat that may not exist yet: exactly one of `tempChatId` and `chatId`."""

    model_config = _one_of("tempChatId", "chatId")

    temp_chat_id: TempChatId | None = None
    chat_id: WireChatId | None = None

    @model_validator(mode="after")
    def _one_chat(self) -> Self:
        if (self.temp_chat_id is None) is (self.chat_id is None):
            raise PydanticCustomError(
                "one_chat",
                "names the chat: send `tempChatId` for a new one or `chatId` for one that you know, not both",
                {"key": "chatId"},
            )
        return self

    @property
    def wire_chat_id(self) -> str:
        """The chat's id as it came, whichever of the two keys it came in."""
        return self.chat_id or self.temp_chat_id or ""


class DraftUpdateRequestData(_OfChat):
    content: Any = Field(repr=False, description=_CONTENT)
    based_on_version: Version = Field(description="The version that the editor showed; 0 for a new chat.")
    based_on_op: FrameId | None = None


class DraftDelete(Payload):
    chat_id: WireChatId
    based_on_version: Version
    based_on_op: FrameId | None = None
    has_messages: bool = Field(description="Whether the client holds or is sending a message of this chat.")


class TitleUpdate(Payload):
    chat_id: WireChatId
    title: str | None = Field(repr=False, description="null clears it.")
    based_on_version: Version
    based_on_op: FrameId | None = None


class HeldDraft(Payload):
    """A draft revision as the client holds it."""

    content: Any = Field(repr=False, description=f"{_CONTENT} Not null exactly when `state` is `edited`.")
    state: DraftState
    version: MadeVersion
    op: FrameId | None

    @model_validator(mode="after")
    def _text_of_its_state(self) -> Self:
        if (self.content is not None) is not (self.state == "edited"):
            raise PydanticCustomError(
                "state", "is the text when `state` is `edited`, and null in any other state", {"key": "content"}
            )
        return self


class HeldTitle(Payload):
    """A title revision as the client holds it."""

    title: str | None = Field(repr=False)
    version: MadeVersion
    op: FrameId | None


def _never_null(schema: dict[str, Any]) -> None:
    schema.update(schema.pop("anyOf")[0])


class ChatRestore(Payload):
    chat_id: WireChatId
    draft: HeldDraft | None = Field(default=None, json_schema_extra=_never_null)
    title: HeldTitle | None = Field(default=None, json_schema_extra=_never_null)
    messages_version: Version

    @field_validator("draft", "title", mode="before")
    @classmethod
    def _absent_is_not_null(cls, value: Any) -> Any:
        if value is None:  # elsewhere null clears a text; here nothing may be taken for that (lesson L13)
            raise PydanticCustomError("null", "is not null: leave the key out when the client holds none")
        return value


# -- messages, chats and devices ---------------------------------------------------------------------------------------


class MessageSend(_OfChat):
    client_message_id: ClientMessageId
    content: Any = Field(repr=False, description=_CONTENT)
    draft_version: MadeVersion | None = Field(default=None, description="The draft revision that it was made from.")
    draft_op: FrameId | None = None

    @model_validator(mode="after")
    def _whole_revision(self) -> Self:
        if self.draft_op is not None and self.draft_version is None:
            raise PydanticCustomError("revision", "needs `draftVersion` beside it", {"key": "draftOp"})
        return self


class SetActiveChat(Payload):
    chat_id: WireChatId | None = Field(description="null: no chat is open.")


class MessageStop(Payload):
    chat_id: WireChatId
    message_id: WireMessageId


class ChatDelete(Payload):
    chat_id: WireChatId


class DeviceRename(Payload):
    device_id: WireDeviceId
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]


class DeviceRevoke(Payload):
    device_id: WireDeviceId


@dataclass(frozen=True, slots=True)
class Ask:
    """One client frame type. `answers` are the types of its answer; `error` may always come instead."""

    payload: type[Payload]
    answers: tuple[str, ...]
    summary: str
    mutation: bool = False
    """Its `id` is the operation id of semantics §1."""
    needs_id: bool = True


CLIENT_FRAMES: Mapping[str, Ask] = MappingProxyType(
    {
        "auth": Ask(Auth, ("ready", "reauth_required"), "Signs in; the first frame."),
        "reauth": Ask(Reauth, ("ready",), "Answers `reauth_required` with a code."),
        "auth_refresh": Ask(AuthRefresh, ("auth_refreshed",), "A fresh token for the same session, without a gap."),
        "ping": Ask(Empty, ("pong",), "Asks for a sign of life.", needs_id=False),
        "sync_request": Ask(
            SyncRequest, ("initial_sync_data", "sync_delta"), "Asks for what changed; the answer is a run of frames."
        ),
        "messages_request": Ask(MessagesRequest, ("messages_page",), "Asks for older messages of a chat."),
        "chats_request": Ask(ChatsRequest, ("chats_page",), "Asks for chats by id, or for older ones."),
        "draft_update": Ask(
            DraftUpdateRequestData,
            ("chat_initiated", "draft_updated", "draft_conflict"),
            "Replaces a draft, or begins a chat with one.",
            mutation=True,
        ),
        "draft_delete": Ask(
            DraftDelete, ("draft_updated", "chat_deleted", "draft_conflict"), "Clears a draft.", mutation=True
        ),
        "title_update": Ask(TitleUpdate, ("title_updated", "title_conflict"), "Sets or clears a title.", mutation=True),
        "chat_restore": Ask(
            ChatRestore, ("chat_restored", "draft_conflict"), "Puts back what the server lost.", mutation=True
        ),
        "message_send": Ask(
            MessageSend,
            ("message_accepted", "chat_deleted"),
            "Sends a message, or begins a chat with one.",
            mutation=True,
        ),
        "set_active_chat": Ask(SetActiveChat, ("active_chat_set",), "Says which chat is open here."),
        "message_stop": Ask(MessageStop, ("message_update",), "Asks a streaming message to stop.", mutation=True),
        "chat_delete": Ask(ChatDelete, ("chat_deleted",), "Deletes a chat for good.", mutation=True),
        "devices_request": Ask(Empty, ("devices",), "Asks for the person's devices."),
        "device_rename": Ask(DeviceRename, ("devices",), "Names a device.", mutation=True),
        "device_revoke": Ask(DeviceRevoke, ("devices",), "Signs a device out for good.", mutation=True),
    }
)
