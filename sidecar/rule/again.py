"""The same operation again: the first outcome, and nothing changes (semantics §1)."""

from __future__ import annotations

from dataclasses import replace

from sidecar.changes import (
    Accepted,
    AddMessage,
    Change,
    ChatInCache,
    Conflict,
    Decision,
    Remembered,
    Replaced,
    Reused,
    Unmerged,
    View,
)
from sidecar.records import MessageInCache
from sidecar.rule.messages import known_message
from sidecar.rule.outcomes import reason_of, usable


def repeat(first: Remembered, view: View, change: Change) -> Decision | None:
    """The first outcome, or None where it no longer holds and the change is to be carried out anew."""
    if first.digest != change.digest:
        return Decision(Reused())
    if view.tombstone is not None:
        if first.kind == "delete":
            return Decision(Accepted(change.chat_id, deleted=view.tombstone, repeat=True))
        return Decision(Conflict("chat_deleted", view.tombstone, repeat=True))
    if first.kind == "delete":
        return None  # its tombstone was lost, or is not written yet
    if not usable(view, change):
        return Decision(Unmerged())
    chat = view.chat
    if chat is None:
        return None
    if not first.accepted:
        if first.reason == "chat_deleted":
            return None  # its tombstone was lost, or its deletion is not done yet
        return Decision(Conflict("stale" if first.kind == "title" else reason_of(chat), chat, repeat=True))
    return _accepted(first, chat, change)


def _accepted(first: Remembered, chat: ChatInCache, change: Change) -> Decision | None:
    message: MessageInCache | None = None
    match first.kind:
        case "draft":
            held = _holds(chat.version, chat.draft_op, first.version, first.op)
        case "title":
            held = _holds(chat.title_version, chat.title_op, first.title_version, first.title_op)
        case "message":
            message = known_message(chat, change.what) if isinstance(change.what, AddMessage) else None
            held = message is not None
        case _:
            held = (
                _holds(chat.version, chat.draft_op, first.version, first.op)
                and _holds(chat.title_version, chat.title_op, first.title_version, first.title_op)
                and chat.messages_version >= first.messages_version
            )
    if not held:
        return None
    return Decision(
        Accepted(
            change.chat_id,
            version=first.version,
            op=first.op,
            title_version=first.title_version,
            title_op=first.title_op,
            messages_version=first.messages_version,
            at=first.at,
            created=first.created,
            repeat=True,
            consumed=first.consumed,
            message=message,
            replaced=first.replaced,
            doomed=chat.doomed,
            chat=chat,
            draft_lost=reason_of(chat) if first.draft_lost is not None else None,
        )
    )


def still_replaced(before: Replaced | None, decision: Decision) -> Decision:
    """What gave way the first time is nowhere else, and is given back by the answer to the second."""
    outcome, remember = decision.outcome, decision.remember
    if before is None or remember is None or not isinstance(outcome, Accepted):
        return decision
    after = outcome.replaced or Replaced()
    if after.draft is None:
        after = replace(after, draft=before.draft, draft_version=before.draft_version, draft_op=before.draft_op)
    if after.title is None:
        after = replace(after, title=before.title, title_version=before.title_version, title_op=before.title_op)
    return replace(decision, outcome=replace(outcome, replaced=after), remember=replace(remember, replaced=after))


def _holds(version: int, op: str | None, first_version: int, first_op: str | None) -> bool:
    return version > first_version or (version == first_version and op == first_op)
