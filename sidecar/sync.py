"""Sync: what a device missed, by its cursor, or everything in phases (semantics §6).

The position is taken before anything is read, so that whatever happens meanwhile comes as an event after `complete`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sidecar.changes import NewEpoch
from sidecar.chats import own_change, peek
from sidecar.cursors import read_cursor
from sidecar.frames.client import HeldChat, SyncRequest
from sidecar.ids import ChatId, resolve_chat_id
from sidecar.parts import Caller, Parts
from sidecar.sync_delta import Delta
from sidecar.sync_frames import SyncFrame
from sidecar.sync_full import Full
from sidecar.sync_held import judge

__all__ = ["SyncFrame", "answer_sync"]


async def answer_sync(parts: Parts, caller: Caller, payload: SyncRequest) -> AsyncIterator[SyncFrame]:
    """The frames of the answer: one run of `sync_delta`, or of `initial_sync_data` in phases.

    Raises `WireError` and `Unavailable` after the frames that could be sent; such a run has no `complete`.
    """
    user = caller.user
    chats = parts.cache.chats
    held: dict[ChatId, HeldChat] = {}
    for chat in payload.chats:
        held.setdefault(resolve_chat_id(user, chat.id), chat)
    last_open = resolve_chat_id(user, payload.last_open_chat_id) if payload.last_open_chat_id is not None else None
    cursor = read_cursor(payload.cursor) if payload.cursor is not None else None
    reason: str | None = "cursor_expired" if payload.cursor is not None else None
    if cursor is not None:
        events = await chats.events(user, cursor, parts.settings.cache.events_kept)
        reason = events.lost
        if events.lost is None:
            found = await peek(parts, user, list(held))
            missing, deleted = judge(held, found)
            if not missing:
                parts.metrics.syncs.labels("delta").inc()
                async for frame in Delta(parts, user, events, held, found, deleted).frames():
                    yield frame
                return
            # The log covers the cursor and yet something is gone: everybody must compare what they hold.
            await chats.commit(own_change(parts, user, ChatId(""), NewEpoch(events.head.epoch)))
            reason = "epoch_changed"
    position = (await chats.events(user, None, 0)).head
    parts.metrics.syncs.labels("full").inc()
    # Without a cursor nothing says in which epoch the numbers were given that the client named.
    whole = cursor is None or cursor.epoch != position.epoch
    full = Full(parts, user, position, held, last_open=last_open, whole=whole, reason=reason)
    async for frame in full.frames():
        yield frame
