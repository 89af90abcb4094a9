"""Which use case answers which frame."""

from __future__ import annotations

from sidecar.answers import Answer
from sidecar.chats import load
from sidecar.connections import Connection
from sidecar.deletions import delete_chat
from sidecar.drafts import delete_draft, update_draft
from sidecar.errors import WireError
from sidecar.frames import client
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import resolve_chat_id
from sidecar.messages import send_message, stop_message
from sidecar.pages import chats_page, messages_page
from sidecar.parts import Parts
from sidecar.restores import restore_chat
from sidecar.titles import update_title

WITHOUT_CHAT = "·"
"""The lane of frames that belong to no chat."""


def lane_of(frame: ClientFrame) -> str:
    """Frames of one lane are answered one after the other: those of one chat, whichever way its id is written."""
    payload = frame.payload
    chat_id = getattr(payload, "temp_chat_id", None) or getattr(payload, "chat_id", None)
    return chat_id.rpartition("_")[2] if chat_id is not None else WITHOUT_CHAT


async def answer(parts: Parts, connection: Connection, frame: ClientFrame) -> Answer:
    """The answer to any frame that has exactly one. Raises `WireError` and what the slots raise."""
    caller = connection.caller
    match frame.payload:
        case client.DraftUpdateRequestData() as payload:
            return await update_draft(parts, caller, frame, payload)
        case client.MessageSend() as payload:
            sent = await send_message(parts, caller, frame, payload)
            if sent.type == "message_accepted":
                connection.active_chat = sent.payload["chatId"]  # who sends is looking, even if that is said late
            return sent
        case client.DraftDelete() as payload:
            return await delete_draft(parts, caller, frame, payload)
        case client.TitleUpdate() as payload:
            return await update_title(parts, caller, frame, payload)
        case client.ChatRestore() as payload:
            return await restore_chat(parts, caller, frame, payload)
        case client.ChatDelete() as payload:
            return await delete_chat(parts, caller, frame, payload)
        case client.MessagesRequest() as payload:
            return await messages_page(parts, caller, payload)
        case client.ChatsRequest() as payload:
            return await chats_page(parts, caller, payload)
        case client.MessageStop() as payload:
            return await stop_message(parts, caller, payload)
        case client.SetActiveChat() as payload:
            return await _set_active_chat(parts, connection, payload)
        case _:
            # `reauth` and the device frames have their schema already; they are answered with their own release.
            raise WireError("unknown_type", "this server does not answer this frame type yet")


async def _set_active_chat(parts: Parts, connection: Connection, payload: client.SetActiveChat) -> Answer:
    """Which chat is open on this connection: it is used, and running answers there are streamed to it."""
    if payload.chat_id is None:
        connection.active_chat = None
        return Answer("active_chat_set", {"chatId": None})
    chat_id = resolve_chat_id(connection.user, payload.chat_id)
    await load(parts, connection.user, [chat_id], use=True)
    connection.active_chat = chat_id
    return Answer("active_chat_set", {"chatId": chat_id})
