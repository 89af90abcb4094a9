"""The end of a chat, and the sidecar's own changes: what the store has, how a message fares (semantics §4, §5, §8)."""

from __future__ import annotations

from typing import Literal

from sidecar.changes import (
    Accepted,
    Change,
    ChatInCache,
    Conflict,
    Decision,
    Limits,
    MessageElsewhere,
    MessageStatus,
    NewEntry,
    NewItem,
    Remembered,
    Stored,
    View,
)
from sidecar.records import Deleted, Status

_UNDELIVERED = ("sent", "error")


def doom_chat(view: View, change: Change) -> Decision:
    """The chat is to be deleted, whatever is or is not here; again is the same."""
    if view.tombstone is not None:
        return Decision(Accepted(change.chat_id, deleted=view.tombstone, repeat=True))
    remember = None
    if change.operation is not None:
        remember = Remembered(change.digest, change.at, change.chat_id, True, kind="delete")
    return Decision(
        Accepted(change.chat_id, at=change.at, doomed=True, chat=view.chat),
        chat=view.chat.having(doomed=True) if view.chat is not None and not view.chat.doomed else None,
        remember=remember,
    )


def delete_chat(view: View, change: Change) -> Decision:
    """The tombstone."""
    if view.tombstone is not None:
        return Decision(Accepted(change.chat_id, deleted=view.tombstone, repeat=True))
    tombstone = Deleted(change.user, change.chat_id, change.at)
    return Decision(
        Accepted(change.chat_id, at=change.at, deleted=tombstone),
        tombstone=tombstone,
        items=(NewItem("deleted"),),
        entries=(NewEntry("deleted"),),
    )


def set_status(chat: ChatInCache | None, what: MessageStatus) -> Decision:
    """A message's status, and the next `messages_version`."""
    if chat is None:
        return Decision(Conflict("missing"))
    after = _with_status(chat, what.message_id, what.status)
    if after is None:
        return Decision(Accepted(chat.id, messages_version=chat.messages_version, repeat=True, chat=chat))
    return Decision(
        Accepted(chat.id, messages_version=after.messages_version, chat=after),
        chat=after,
        items=(NewItem("message_update", after.messages_version, what.message_id),),
    )


def message_elsewhere(chat: ChatInCache | None, what: MessageElsewhere) -> Decision:
    """The next `messages_version` tells of it, and goes to the store with an entry of its own; a deleted message goes from here.

    One that the store has not got, as far as is known here, was not deleted there: it is on its way.
    """
    if chat is None or chat.doomed or not chat.persisted:
        return Decision(Conflict("missing"))
    message = next((each for each in chat.messages if each.id == what.message_id), None)
    if message is not None and message.status != "delivered":
        return Decision(Accepted(chat.id, messages_version=chat.messages_version, repeat=True, chat=chat))
    after = chat.having(messages_version=chat.messages_version + 1)
    if message is not None and what.deleted:
        after = after.having(
            messages=tuple(each for each in chat.messages if each is not message),
            message_bytes=chat.message_bytes - 256 - len(message.content),
        )
    kind: Literal["message", "message_deleted"] = "message_deleted" if what.deleted else "message"
    return Decision(
        Accepted(chat.id, messages_version=after.messages_version, chat=after),
        chat=after,
        items=(NewItem(kind, after.messages_version, what.message_id),),
        entries=(NewEntry("title"),),
    )


def mark_stored(chat: ChatInCache | None, what: Stored, limits: Limits) -> Decision:
    """The store has draft and title up to these versions; the message named is `delivered`, and the oldest may go."""
    if chat is None:
        return Decision(Conflict("missing"))
    after = chat
    items: list[NewItem] = []
    if what.message_id is not None:
        changed = _with_status(chat, what.message_id, "delivered")
        if changed is not None:
            after = changed
            if len(after.messages) > limits.messages_kept:
                after = after.with_messages(after.messages, limits.messages_kept)
            items.append(NewItem("message_update", after.messages_version, what.message_id))
    version = max(chat.stored_version, min(what.version, chat.version))
    title_version = max(chat.stored_title_version, min(what.title_version, chat.title_version))
    if version > chat.stored_version or title_version > chat.stored_title_version:
        items.append(NewItem("stored", version))
    if items or not chat.in_store:
        after = after.having(stored_version=version, stored_title_version=title_version, in_store=True)
    return Decision(
        Accepted(chat.id, messages_version=after.messages_version, chat=after),
        chat=after if after is not chat else None,
        items=tuple(items),
    )


def _with_status(chat: ChatInCache, message_id: str, status: Status) -> ChatInCache | None:
    """The chat with that message's status changed, or None if there is nothing to change."""
    place = next((place for place, each in enumerate(chat.messages) if each.id == message_id), None)
    if place is None or chat.messages[place].status == status:
        return None
    message = chat.messages[place]
    changed = message.model_copy(update={"status": status})
    return chat.having(
        messages=(*chat.messages[:place], changed, *chat.messages[place + 1 :]),
        undelivered=chat.undelivered + (status in _UNDELIVERED) - (message.status in _UNDELIVERED),
        messages_version=chat.messages_version + 1,
    )
