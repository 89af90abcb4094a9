"""Deletions: `chat_delete` (semantics §8). First nothing more is accepted, then the key goes, then the tombstone is written."""

from __future__ import annotations

from sidecar.answers import Answer
from sidecar.changes import Accepted, DoomChat
from sidecar.chats import bury, client_change, key_of
from sidecar.frames.client import ChatDelete
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import KeyReference, resolve_chat_id
from sidecar.outcomes import chat_deleted, refuse_over_quota
from sidecar.parts import Caller, Parts
from sidecar.records import Deleted


async def delete_chat(parts: Parts, caller: Caller, frame: ClientFrame, payload: ChatDelete) -> Answer:
    """`chat_delete`: `chat_deleted`, again and for an own id that nobody knows as well."""
    user = caller.user
    chat_id = resolve_chat_id(user, payload.chat_id)
    key = await key_of(parts, user, chat_id)
    change = client_change(parts, caller, frame, chat_id, key if isinstance(key, str) else KeyReference(""), DoomChat())
    outcome = await parts.cache.chats.commit(change)
    if not isinstance(outcome, Accepted):
        raise refuse_over_quota(outcome)
    parts.metrics.accepted.labels("chat_delete").inc()
    if outcome.deleted is not None:
        return chat_deleted(outcome.deleted)
    gone = await bury(parts, user, chat_id, key if not isinstance(key, Deleted) else None, caller)
    return chat_deleted(gone)
