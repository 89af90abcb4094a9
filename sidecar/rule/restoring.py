"""Restore: what a device holds and the server lost is put back, revision and all (semantics §2)."""

from __future__ import annotations

from dataclasses import replace

from sidecar.changes import Change, ConflictReason, Decision, Limits, NewItem, Replaced, Restore, View
from sidecar.rule.outcomes import accepted, conflict, new_chat, over_quota, reason_of


def restore(view: View, change: Change, what: Restore, limits: Limits) -> Decision:
    """What is higher is put back unchanged; equal is a success; lower, or equal with another operation id, is a conflict."""
    before = view.chat
    chat = before if before is not None else new_chat(view, change)
    after = chat
    replaced = Replaced()
    draft_lost: ConflictReason | None = None
    draft, title = what.draft, what.title
    if draft is not None:
        if draft.version > chat.version:
            if chat.draft is not None:
                replaced = Replaced(chat.draft, chat.version, chat.draft_op)
            after = after.having(
                draft=draft.content,
                version=draft.version,
                draft_op=draft.op,
                draft_state=draft.state,
                draft_at=change.at,
                draft_device=change.device,
            )
        elif draft.version < chat.version or draft.op != chat.draft_op:
            draft_lost = reason_of(chat)
    if title is not None and title.version > chat.title_version:
        if chat.title is not None:
            replaced = replace(replaced, title=chat.title, title_version=chat.title_version, title_op=chat.title_op)
        after = after.having(
            title=title.title,
            title_version=title.version,
            title_op=title.op,
            title_at=change.at,
            title_device=change.device,
        )
    if what.messages_version > chat.messages_version:
        after = after.having(messages_version=what.messages_version)
    if after is chat:
        if before is None:
            return conflict(change, "missing", None)  # the device holds nothing either: no chat to make of that
        if draft_lost is not None:
            return conflict(change, draft_lost, chat)
    else:
        after = after.having(updated_at=max(chat.updated_at, change.at))
        over = over_quota(view, limits, before, after)
        if over is not None:
            return over
    return accepted(
        change,
        before,
        after,
        items=(NewItem("restored", after.version),),
        replaced=replaced if replaced.draft is not None or replaced.title is not None else None,
        draft_lost=draft_lost,
    )
