"""Titles: `title_update` (semantics §2)."""

from __future__ import annotations

from typing import Any

from sidecar.answers import Answer
from sidecar.changes import Accepted, ChatInCache, Conflict, ConflictReason, PutTitle
from sidecar.chats import bury, client_change, commit, key_of
from sidecar.errors import KeyGone, Undecryptable, WireError
from sidecar.frames.client import TitleUpdate
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import ChatId, resolve_chat_id
from sidecar.outcomes import refuse_over_quota
from sidecar.parts import Caller, Parts
from sidecar.records import Deleted, rfc3339
from sidecar.texts import open_title, seal_title, title_of


async def update_title(parts: Parts, caller: Caller, frame: ClientFrame, payload: TitleUpdate) -> Answer:
    """`title_update`: `title_updated` or `title_conflict`. It never begins a chat."""
    user = caller.user
    chat_id = resolve_chat_id(user, payload.chat_id)
    title = title_of(parts, payload.title)
    base = payload.based_on_version
    key = await key_of(parts, user, chat_id)
    if key is None:
        return _conflict(parts, chat_id, "missing", None, None)
    if isinstance(key, Deleted):
        return _conflict(parts, chat_id, "chat_deleted", key, None)
    try:
        sealed = await seal_title(parts, key, user, chat_id, base + 1, title) if title is not None else None
    except KeyGone:
        return _conflict(parts, chat_id, "chat_deleted", await bury(parts, user, chat_id, key), None)
    change = client_change(parts, caller, frame, chat_id, key, PutTitle(sealed, base, payload.based_on_op))
    outcome = await commit(parts, change)
    if isinstance(outcome, Accepted):
        parts.metrics.accepted.labels("title").inc()
        chat = outcome.chat
        stored = chat is not None and chat.in_store and chat.stored_title_version >= outcome.title_version
        answer = _updated(chat_id, payload.title, outcome.title_version, outcome.title_op, stored)
        return Answer("title_updated", answer, outcome.cursor, dict(answer) if outcome.cursor is not None else None)
    if not isinstance(outcome, Conflict):
        raise refuse_over_quota(outcome)
    winner = outcome.chat
    if not isinstance(winner, ChatInCache) or outcome.reason == "missing":
        if outcome.reason == "chat_deleted":
            winner = await bury(parts, user, chat_id, key)
        return _conflict(parts, chat_id, outcome.reason, winner, None)
    try:
        text = await open_title(parts, winner)
    except KeyGone:
        return _conflict(parts, chat_id, "chat_deleted", await bury(parts, user, chat_id, key), None)
    except Undecryptable:
        parts.metrics.undecryptable.labels("title").inc()
        raise WireError(
            "undecryptable",
            "the current title does not open; to replace it, base yours on its revision",
            details={"version": winner.title_version, "op": winner.title_op},
        ) from None
    if text == payload.title:
        stored = winner.in_store and winner.stored_title_version >= winner.title_version
        return Answer("title_updated", _updated(chat_id, text, winner.title_version, winner.title_op, stored))
    return _conflict(parts, chat_id, outcome.reason, winner, text)


def _updated(chat_id: ChatId, title: str | None, version: int, op: str | None, stored: bool) -> dict[str, Any]:
    return {
        "chatId": chat_id,
        "title": title,
        "titleVersion": version,
        "op": op,
        "durability": "stored" if stored else "cached",
    }


def _conflict(
    parts: Parts,
    chat_id: ChatId,
    reason: ConflictReason,
    winner: ChatInCache | Deleted | None,
    title: str | None,
) -> Answer:
    parts.metrics.conflicts.labels("title", reason).inc()
    here = winner if isinstance(winner, ChatInCache) else None
    if here is not None:
        at = here.title_at or here.updated_at
    else:
        at = winner.at if isinstance(winner, Deleted) else parts.now()
    return Answer(
        "title_conflict",
        {
            "chatId": chat_id,
            "title": title,
            "titleVersion": here.title_version if here is not None else 0,
            "op": here.title_op if here is not None else None,
            "updatedAt": rfc3339(at),
            "deviceId": here.title_device if here is not None else None,
            "reason": reason,
        },
    )
