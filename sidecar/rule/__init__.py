"""The rule: what becomes of a change (semantics §1–§5). Pure: no await, clock, randomness or I/O.

A cache reads a `View`, calls `decide` and carries out the `Decision`, all in one atomic step. A cache that cannot call
Python there (a Redis script) has a twin of this function, held to it by a differential test.

The order of the questions is part of the rule: has this operation been seen, is the chat deleted, is the record fit to be
used, and only then what the change asks.
"""

from __future__ import annotations

from dataclasses import replace

from sidecar.changes import (
    Accepted,
    AddMessage,
    Change,
    Decision,
    DeleteChat,
    DoomChat,
    Limits,
    MessageElsewhere,
    MessageStatus,
    NewEntry,
    NewEpoch,
    NewItem,
    Notify,
    PutDraft,
    PutTitle,
    Restore,
    Stored,
    Unmerged,
    View,
)
from sidecar.records import Deleted
from sidecar.rule.again import repeat, still_replaced
from sidecar.rule.messages import add_message
from sidecar.rule.outcomes import conflict, usable
from sidecar.rule.restoring import restore
from sidecar.rule.storing import delete_chat, doom_chat, mark_stored, message_elsewhere, set_status
from sidecar.rule.texts import put_draft, put_title

__all__ = ["decide"]


def decide(view: View, change: Change, limits: Limits) -> Decision:
    """The decision on one change. `view.chat` and `view.tombstone` are never both set."""
    first = view.remembered
    if first is None:
        return _first_time(view, change, limits)
    decision = repeat(first, view, change)
    if decision is not None:
        return decision
    decision = _first_time(view, change, limits)
    if decision.remember is None:
        return replace(decision, forget=True)
    return still_replaced(first.replaced, decision)


def _first_time(view: View, change: Change, limits: Limits) -> Decision:
    match change.what:
        case PutDraft() | PutTitle() | Restore() | AddMessage():
            return _client_change(view, change, limits)
        case NewEpoch(seen):
            return Decision(Accepted(change.chat_id), new_epoch=seen == view.epoch)
        case Notify(name):
            entries = (NewEntry("erased"),) if name == "erased" else ()
            return Decision(Accepted(change.chat_id), items=(NewItem("notice", ref=name),), entries=entries)
        case DoomChat():
            return doom_chat(view, change)
        case DeleteChat():
            return delete_chat(view, change)
        case Stored() as what:
            return mark_stored(view.chat, what, limits)
        case MessageStatus() as what:
            return set_status(view.chat, what)
        case MessageElsewhere() as what:
            return message_elsewhere(view.chat, what)


def _client_change(view: View, change: Change, limits: Limits) -> Decision:
    if view.tombstone is not None:
        return conflict(change, "chat_deleted", view.tombstone)
    if not usable(view, change):
        return Decision(Unmerged())
    chat = view.chat
    if chat is not None and chat.doomed:
        return conflict(change, "chat_deleted", Deleted(chat.user, chat.id, chat.updated_at))
    match change.what:
        case PutDraft() as what:
            return put_draft(view, change, what, limits)
        case PutTitle() as what:
            return put_title(view, change, what, limits)
        case Restore() as what:
            return restore(view, change, what, limits)
        case AddMessage() as what:
            return add_message(view, change, what, limits)
        case _:
            raise AssertionError("every other kind of change was handled before")
