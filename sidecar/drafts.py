"""Drafts: `draft_update` and `draft_delete` (semantics §2, §3). The path: guards, seal, commit, answer."""

from __future__ import annotations

from typing import Any

from sidecar.answers import Answer
from sidecar.changes import Accepted, ChatInCache, Conflict, ConflictReason, PutDraft
from sidecar.chats import begin, bury, client_change, commit, key_of, load, seek
from sidecar.documents import same
from sidecar.errors import KeyGone, Undecryptable, WireError
from sidecar.frames.client import DraftDelete, DraftUpdateRequestData
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import ChatId, chat_id_of, client_part, resolve_chat_id
from sidecar.outcomes import chat_deleted, refuse_over_quota
from sidecar.parts import Caller, Parts
from sidecar.records import Deleted, DraftState, rfc3339
from sidecar.responses import chat_response, durability, fragment
from sidecar.texts import content_of, open_draft, seal_draft


async def update_draft(parts: Parts, caller: Caller, frame: ClientFrame, payload: DraftUpdateRequestData) -> Answer:
    """`draft_update`: `draft_updated`, `chat_initiated` when this made the chat, or `draft_conflict`."""
    user = caller.user
    temp = payload.temp_chat_id
    chat_id = chat_id_of(user, temp) if temp is not None else resolve_chat_id(user, payload.chat_id or "")
    content = content_of(parts, payload.content, parts.settings.documents.max_bytes, frame=frame)
    base = payload.based_on_version
    begins = base == 0
    key, token = await seek(parts, user, chat_id, trust_new=begins and temp is not None)
    if parts.plugins.guards_drafts and not parts.cipher.end_to_end and not isinstance(key, Deleted):
        found = (await load(parts, user, [chat_id])).chats.get(chat_id) if key is not None else None
        chat = found.in_db() if isinstance(found, ChatInCache) else None
        await parts.plugins.guard_draft(caller.author, chat_id, chat, content)
    new = key is None and begins and temp is not None
    if key is None and begins:
        key = await begin(parts, user, chat_id)
    if key is None:
        return _conflict(parts, chat_id, temp, "missing", None, None)
    if isinstance(key, Deleted):
        return _conflict(parts, chat_id, temp, "chat_deleted", key, None)
    try:
        sealed = await seal_draft(parts, key, user, chat_id, base + 1, content.raw)
    except KeyGone:
        gone = await bury(parts, user, chat_id, key)
        return _conflict(parts, chat_id, temp, "chat_deleted", gone, None)
    change = client_change(parts, caller, frame, chat_id, key, PutDraft(sealed, base, payload.based_on_op), token)
    outcome = await commit(parts, change, trust_new=new)
    if isinstance(outcome, Accepted):
        parts.metrics.accepted.labels("draft").inc()
        if outcome.created and outcome.chat is not None:
            try:
                return await _initiated(parts, outcome, outcome.chat)
            except KeyGone:  # deleted by another device meanwhile
                gone = await bury(parts, user, chat_id, key)
                return _conflict(parts, chat_id, temp, "chat_deleted", gone, None)
        return _updated(chat_id, outcome, content.raw, "edited")
    if isinstance(outcome, Conflict):
        return await _refused(parts, chat_id, temp, outcome, content.raw)
    raise refuse_over_quota(outcome)


async def delete_draft(parts: Parts, caller: Caller, frame: ClientFrame, payload: DraftDelete) -> Answer:
    """`draft_delete`: `draft_updated`, `chat_deleted` of a chat without a message, or `draft_conflict`."""
    user = caller.user
    chat_id = resolve_chat_id(user, payload.chat_id)
    key = await key_of(parts, user, chat_id)
    if key is None:
        return _conflict(parts, chat_id, None, "missing", None, None)
    if isinstance(key, Deleted):
        return chat_deleted(key)
    what = PutDraft(None, payload.based_on_version, payload.based_on_op, payload.has_messages)
    outcome = await commit(parts, client_change(parts, caller, frame, chat_id, key, what))
    if isinstance(outcome, Accepted):
        parts.metrics.accepted.labels("draft_delete").inc()
        if outcome.doomed:
            return chat_deleted(await bury(parts, user, chat_id, key, caller))
        return _updated(chat_id, outcome, None, "deleted")
    if isinstance(outcome, Conflict):
        if isinstance(outcome.chat, Deleted):
            return chat_deleted(await bury(parts, user, chat_id, key))
        return await _refused(parts, chat_id, None, outcome, None)
    raise refuse_over_quota(outcome)


async def _initiated(parts: Parts, outcome: Accepted, chat: ChatInCache) -> Answer:
    response = {
        "tempChatId": client_part(chat.id),
        "finalChatId": chat.id,
        "version": outcome.version,
        "op": outcome.op,
        "durability": durability(chat),
        "chat": await chat_response(parts, chat),
    }
    return Answer("chat_initiated", response, outcome.cursor)


def _updated(chat_id: ChatId, outcome: Accepted, raw: bytes | None, reason: DraftState) -> Answer:
    chat = outcome.chat
    stored = chat is not None and chat.in_store and chat.stored_version >= outcome.version
    payload: dict[str, Any] = {
        "chatId": chat_id,
        "version": outcome.version,
        "op": outcome.op,
        "durability": "stored" if stored else "cached",
        "updatedAt": rfc3339(outcome.at) if outcome.at is not None else None,
    }
    event = {**payload, "content": fragment(raw), "reason": reason} if outcome.cursor is not None else None
    if raw is None:
        payload["reason"] = reason
    return Answer("draft_updated", payload, outcome.cursor, event)


async def _refused(parts: Parts, chat_id: ChatId, temp: str | None, outcome: Conflict, raw: bytes | None) -> Answer:
    """A conflict as its answer; with the winner's text the same as the one sent it is a success."""
    chat = outcome.chat
    if outcome.reason == "missing" or not isinstance(chat, ChatInCache):
        if outcome.reason == "chat_deleted" and isinstance(chat, Deleted):
            chat = await bury(parts, chat.user, chat_id, None)  # its deletion may not be finished yet
        return _conflict(parts, chat_id, temp, outcome.reason, chat, None)
    try:
        winner = await open_draft(parts, chat)
    except KeyGone:
        gone = await bury(parts, chat.user, chat_id, chat.key)
        return _conflict(parts, chat_id, temp, "chat_deleted", gone, None)
    except Undecryptable:
        parts.metrics.undecryptable.labels("draft").inc()
        raise undecryptable_draft(chat) from None
    if same(winner, raw):
        payload: dict[str, Any] = {
            "chatId": chat_id,
            "version": chat.version,
            "op": chat.draft_op,
            "durability": "stored" if chat.in_store and chat.stored_version >= chat.version else "cached",
            "updatedAt": rfc3339(chat.draft_at or chat.updated_at),
        }
        if raw is None:
            payload["reason"] = "consumed" if chat.draft_state == "consumed" else "deleted"
        return Answer("draft_updated", payload)
    return _conflict(parts, chat_id, temp, outcome.reason, chat, winner)


def _conflict(
    parts: Parts,
    chat_id: ChatId,
    temp: str | None,
    reason: ConflictReason,
    chat: ChatInCache | Deleted | None,
    winner: bytes | None,
) -> Answer:
    parts.metrics.conflicts.labels("draft", reason).inc()
    return Answer("draft_conflict", draft_conflict(parts, chat_id, temp, reason, chat, winner))


def draft_conflict(
    parts: Parts,
    chat_id: ChatId,
    temp: str | None,
    reason: ConflictReason,
    chat: ChatInCache | Deleted | None,
    winner: bytes | None,
) -> dict[str, Any]:
    """The payload of `draft_conflict`: the winner with its revision, time, device and reason."""
    payload: dict[str, Any] = {"chatId": chat_id}
    if temp is not None:
        payload["tempChatId"] = temp
    here = chat if isinstance(chat, ChatInCache) else None
    payload["version"] = here.version if here is not None else 0
    payload["op"] = here.draft_op if here is not None else None
    payload["content"] = fragment(winner)
    if here is not None:
        at = here.draft_at or here.updated_at
    else:
        at = chat.at if isinstance(chat, Deleted) else parts.now()
    payload["updatedAt"] = rfc3339(at)
    payload["deviceId"] = here.draft_device if here is not None else None
    payload["reason"] = reason
    return payload


def undecryptable_draft(chat: ChatInCache) -> WireError:
    """The winner does not open: said as it is, since a conflict without its text would look like a cleared draft."""
    return WireError(
        "undecryptable",
        "the current draft does not open; to replace it, base yours on its revision",
        details={"version": chat.version, "op": chat.draft_op},
    )
