"""Drafts and titles: accepted on the current revision, otherwise a conflict (semantics §2, §3)."""

from __future__ import annotations

from sidecar.changes import Change, Decision, Limits, NewItem, PutDraft, PutTitle, View
from sidecar.rule.outcomes import accepted, conflict, new_chat, over_quota, reason_of


def put_draft(view: View, change: Change, what: PutDraft, limits: Limits) -> Decision:
    """A draft, its clearing, or the beginning of a chat."""
    before = view.chat
    if before is None:
        if what.content is None or what.base_version > 0:
            return conflict(change, "missing", None)
        chat = new_chat(view, change)
    else:
        chat = before
        if _is_its_own(change, what.base_version, chat.version, chat.draft_op):
            return accepted(change, before, before, items=(), repeat=True)
        if what.base_version > chat.version:
            return conflict(change, "missing", chat)
        if what.base_version < chat.version or (what.base_op is not None and what.base_op != chat.draft_op):
            return conflict(change, reason_of(chat), chat)
    after = chat.having(
        draft=what.content,
        version=chat.version + 1,
        draft_op=change.operation,
        draft_state="deleted" if what.content is None else "edited",
        draft_at=change.at,
        draft_device=change.device,
        updated_at=max(chat.updated_at, change.at),
        doomed=what.content is None and chat.messages_version == 0 and not what.has_messages,
    )
    if what.content is not None:
        over = over_quota(view, limits, before, after)
        if over is not None:
            return over
    # Of a doomed chat the others hear by the tombstone that follows.
    items = () if after.doomed else (NewItem("added" if before is None else "draft", after.version),)
    return accepted(change, before, after, items=items, due=not after.doomed)


def put_title(view: View, change: Change, what: PutTitle, limits: Limits) -> Decision:
    """A title, or its clearing; never the beginning of a chat."""
    chat = view.chat
    if chat is not None and _is_its_own(change, what.base_version, chat.title_version, chat.title_op):
        return accepted(change, chat, chat, items=(), repeat=True)
    if chat is None or what.base_version > chat.title_version:
        return conflict(change, "missing", chat)
    if what.base_version < chat.title_version or (what.base_op is not None and what.base_op != chat.title_op):
        return conflict(change, "stale", chat)
    after = chat.having(
        title=what.title,
        title_version=chat.title_version + 1,
        title_op=change.operation,
        title_at=change.at,
        title_device=change.device,
        updated_at=max(chat.updated_at, change.at),
    )
    if what.title is not None:
        over = over_quota(view, limits, chat, after)
        if over is not None:
            return over
    return accepted(change, chat, after, items=(NewItem("title", after.title_version),))


def _is_its_own(change: Change, base: int, version: int, op: str | None) -> bool:
    """Whether what is here is what this very change makes: its outcome was lost, and a device has brought the text back."""
    return change.operation is not None and (version, op) == (base + 1, change.operation)
