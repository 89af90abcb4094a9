"""Restores: `chat_restore`, by which devices bring back what the server lost (semantics §2)."""

from __future__ import annotations

from dataclasses import replace

from sidecar.answers import Answer
from sidecar.changes import (
    Accepted,
    ChatInCache,
    Conflict,
    ConflictReason,
    Restore,
    RestoredDraft,
    RestoredTitle,
)
from sidecar.chats import begin, bury, client_change, commit, key_of
from sidecar.documents import same
from sidecar.drafts import draft_conflict, undecryptable_draft
from sidecar.errors import KeyGone, Undecryptable
from sidecar.frames.client import ChatRestore
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import ChatId, KeyReference, resolve_chat_id
from sidecar.outcomes import refuse_over_quota
from sidecar.parts import Caller, Parts
from sidecar.records import Deleted
from sidecar.responses import chat_response, durability, replaced_texts
from sidecar.texts import content_of, open_draft, seal_draft, seal_title, title_of


async def restore_chat(parts: Parts, caller: Caller, frame: ClientFrame, payload: ChatRestore) -> Answer:
    """`chat_restore`: `chat_restored`, or `draft_conflict` where the draft cannot be put back."""
    user = caller.user
    chat_id = resolve_chat_id(user, payload.chat_id)
    held = payload.draft
    raw: bytes | None = None
    if held is not None and held.content is not None:
        raw = content_of(parts, held.content, parts.settings.documents.max_bytes, "draft.content").raw
    title = title_of(parts, payload.title.title, "title.title") if payload.title is not None else None
    key = await key_of(parts, user, chat_id)
    if key is None:
        if held is None and payload.title is None and payload.messages_version == 0:
            return _conflict(parts, chat_id, "missing", None, None)
        key = await begin(parts, user, chat_id)
    if isinstance(key, Deleted):
        return _conflict(parts, chat_id, "chat_deleted", key, None)
    try:
        what = await _sealed(parts, key, caller, chat_id, payload, raw, title)
    except KeyGone:
        return _conflict(parts, chat_id, "chat_deleted", await bury(parts, user, chat_id, key), None)
    change = client_change(parts, caller, frame, chat_id, key, what)
    outcome = await commit(parts, change)
    try:
        if isinstance(outcome, Conflict):
            return await _refused(parts, chat_id, key, outcome, raw)
        if not isinstance(outcome, Accepted) or outcome.chat is None:
            raise refuse_over_quota(outcome)
        parts.metrics.accepted.labels("restore").inc()
        return await _restored(parts, outcome.chat, outcome, raw, payload)
    except KeyGone:  # deleted by another device meanwhile
        return _conflict(parts, chat_id, "chat_deleted", await bury(parts, user, chat_id, key), None)


async def _restored(
    parts: Parts, chat: ChatInCache, outcome: Accepted, raw: bytes | None, payload: ChatRestore
) -> Answer:
    replaced = await replaced_texts(
        parts, chat, outcome.replaced, draft=raw, title=payload.title.title if payload.title is not None else None
    )
    if outcome.draft_lost is not None and not await _same_draft(parts, chat, raw):
        # The draft lost while the rest was taken: the answer is about the draft, and gives back what gave way to the rest,
        # which reaches everybody by sync and event.
        answer = _conflict(parts, chat.id, outcome.draft_lost, chat, await _winner(parts, chat))
        answer = replace(answer, cursor=outcome.cursor)
    else:
        response = {"chatId": chat.id, "chat": await chat_response(parts, chat), "durability": durability(chat)}
        answer = Answer("chat_restored", response, outcome.cursor)
    if replaced is not None:
        answer.payload["replaced"] = replaced
    return answer


async def _sealed(
    parts: Parts,
    key: KeyReference,
    caller: Caller,
    chat_id: ChatId,
    payload: ChatRestore,
    raw: bytes | None,
    title: bytes | None,
) -> Restore:
    draft: RestoredDraft | None = None
    if payload.draft is not None:
        held = payload.draft
        sealed = await seal_draft(parts, key, caller.user, chat_id, held.version, raw) if raw is not None else None
        draft = RestoredDraft(sealed, held.state, held.version, held.op)
    restored_title: RestoredTitle | None = None
    if payload.title is not None:
        version = payload.title.version
        text = await seal_title(parts, key, caller.user, chat_id, version, title) if title is not None else None
        restored_title = RestoredTitle(text, version, payload.title.op)
    return Restore(draft, restored_title, payload.messages_version)


async def _same_draft(parts: Parts, chat: ChatInCache, raw: bytes | None) -> bool:
    try:
        return same(await open_draft(parts, chat), raw)
    except Undecryptable:
        return False


async def _refused(
    parts: Parts,
    chat_id: ChatId,
    key: KeyReference,
    outcome: Conflict,
    raw: bytes | None,
) -> Answer:
    chat = outcome.chat
    if not isinstance(chat, ChatInCache):
        if isinstance(chat, Deleted):
            chat = await bury(parts, chat.user, chat_id, key)  # its deletion may not be finished yet
        return _conflict(parts, chat_id, outcome.reason, chat, None)
    if await _same_draft(parts, chat, raw):
        response = {"chatId": chat_id, "chat": await chat_response(parts, chat), "durability": durability(chat)}
        return Answer("chat_restored", response)
    return _conflict(parts, chat_id, outcome.reason, chat, await _winner(parts, chat))


async def _winner(parts: Parts, chat: ChatInCache) -> bytes | None:
    try:
        return await open_draft(parts, chat)
    except Undecryptable:
        parts.metrics.undecryptable.labels("draft").inc()
        raise undecryptable_draft(chat) from None


def _conflict(
    parts: Parts,
    chat_id: ChatId,
    reason: ConflictReason,
    chat: ChatInCache | Deleted | None,
    winner: bytes | None,
) -> Answer:
    parts.metrics.conflicts.labels("restore", reason).inc()
    return Answer("draft_conflict", draft_conflict(parts, chat_id, None, reason, chat, winner))
