"""Messages: next number, next place, the draft consumed, the outbox told, in one step (semantics §3, §4)."""

from __future__ import annotations

from sidecar.changes import (
    AddMessage,
    Change,
    ChatInCache,
    Decision,
    Limits,
    NewEntry,
    NewItem,
    Replaced,
    Unmerged,
    View,
)
from sidecar.records import MessageInCache
from sidecar.rule.outcomes import accepted, new_chat, over_quota


def add_message(view: View, change: Change, what: AddMessage, limits: Limits) -> Decision:
    """A message, or the same message again by its id."""
    before = view.chat
    chat = before if before is not None else new_chat(view, change)
    if chat.older and not what.stored and what.seen != chat.messages_version and known_message(chat, what) is None:
        return Decision(Unmerged())
    after, consumed, replaced = _consume(chat, change, what)
    items = [NewItem("draft", after.version)] if consumed else []
    message = known_message(chat, what)
    if message is not None:
        # The text was consumed when the message was new, or was lost and restored in between and is consumed now.
        already = chat.draft_state == "consumed" and chat.version == (what.draft_version or 0) + 1
        return accepted(
            change,
            before,
            after,
            items=tuple(items),
            repeat=True,
            consumed=consumed or already,
            message=message,
            replaced=replaced,
        )
    message = MessageInCache.model_construct(
        **{
            **what.message.__dict__,
            "sequence": chat.last_sequence + 1,
            "created_at": change.at,
            "status": "sent",
        }
    )
    # After a loss a device may have brought back the very revision that this message made of the draft.
    own = chat.draft_state == "consumed" and chat.version == (what.draft_version or 0) + 1
    consumed = consumed or (own and change.operation is not None and chat.draft_op == change.operation)
    after = after.with_messages((*chat.messages, message), limits.messages_kept).having(
        messages_version=chat.messages_version + 1,
        last_message_timestamp=change.at,
        updated_at=max(chat.updated_at, change.at),
    )
    over = over_quota(view, limits, before, after)
    if over is not None:
        return over
    items.append(NewItem("message", after.messages_version, message.id))
    if before is None:
        # The chat begins with its message: the others are told of the chat as it is now, and then of the message.
        items = [NewItem("added", after.version), items[-1]]
    return accepted(
        change,
        before,
        after,
        items=tuple(items),
        entries=(NewEntry("first_message" if chat.messages_version == 0 else "message", message.id),),
        due=False,  # the draft's new state travels with the message
        consumed=consumed,
        message=message,
        replaced=replaced,
    )


def known_message(chat: ChatInCache, what: AddMessage) -> MessageInCache | None:
    """This message, if it was accepted before: here, or in the store alone, which keeps more than the newest."""
    message = next((each for each in chat.messages if each.id == what.message.id), None)
    if message is None and what.stored:
        message = MessageInCache.model_construct(**{**what.message.__dict__, "status": "delivered"})
    return message


def _consume(chat: ChatInCache, change: Change, what: AddMessage) -> tuple[ChatInCache, bool, Replaced | None]:
    """Consumes the draft if the message was made from the current revision, or from a higher one than is here (lost)."""
    named = what.draft_version
    if named is None or named < chat.version:
        return chat, False, None
    if named == chat.version and (
        chat.draft_state != "edited" or (what.draft_op is not None and what.draft_op != chat.draft_op)
    ):
        return chat, False, None
    replaced = None
    if named > chat.version and chat.draft is not None:
        replaced = Replaced(chat.draft, chat.version, chat.draft_op)
    after = chat.having(
        draft=None,
        version=named + 1,
        draft_op=change.operation,
        draft_state="consumed",
        draft_at=change.at,
        draft_device=change.device,
        updated_at=max(chat.updated_at, change.at),
    )
    return after, True, replaced
