"""Records from two places become one: per field, the higher revision (semantics §6, §7). Pure."""

from __future__ import annotations

from datetime import datetime

from sidecar.changes import ChatInCache
from sidecar.records import ChatInDB, MessageInCache, MessageInDB, Page


def delivered(message: MessageInDB) -> MessageInCache:
    """A message that the store has."""
    return MessageInCache.model_construct(**{**message.__dict__, "status": "delivered"})


def from_store(row: ChatInDB, epoch: str, page: Page[MessageInDB] | None = None) -> ChatInCache:
    """A clean record of a row and its newest messages (`page`; None when they were not asked for)."""
    chat = ChatInCache(
        id=row.id,
        user=row.hashed_user_id,
        key=row.vault_key_reference,
        epoch=epoch,
        created_at=row.created_at,
        updated_at=row.updated_at,
        title=row.title,
        title_version=row.title_version,
        title_op=row.title_op,
        title_at=row.updated_at,
        draft=row.draft,
        version=row.version,
        draft_op=row.draft_op,
        draft_state=row.draft_state,
        draft_at=row.updated_at,
        messages_version=row.messages_version,
        last_message_timestamp=row.last_message_timestamp,
        stored_version=row.version,
        stored_title_version=row.title_version,
        in_store=True,
        older=True,
    )
    return chat if page is None else with_page(chat, page)


def with_page(chat: ChatInCache, page: Page[MessageInDB]) -> ChatInCache:
    """The record with the store's newest messages; what the record has and the store has not stays."""
    messages: dict[str, MessageInCache] = {message.id: delivered(message) for message in page.items}
    for message in chat.messages:
        if message.id not in messages:
            messages[message.id] = message
    return chat.with_messages(messages.values(), max(len(messages), 1), older=page.more)


def merge(
    cached: ChatInCache | None, row: ChatInDB | None, epoch: str, page: Page[MessageInDB] | None = None
) -> ChatInCache | None:
    """One record of the present epoch out of a cached one and a row; of equal numbers the store's text counts."""
    if row is None:
        return cached.having(epoch=epoch) if cached is not None else None
    stored = from_store(row, epoch, page)
    if cached is None:
        return stored
    merged = stored.having(
        created_at=min(cached.created_at, stored.created_at),
        updated_at=max(cached.updated_at, stored.updated_at),
        messages_version=max(cached.messages_version, stored.messages_version),
        last_message_timestamp=_latest(cached.last_message_timestamp, stored.last_message_timestamp),
        last_sequence=max(cached.last_sequence, stored.last_sequence),
        doomed=cached.doomed,
    )
    if cached.version > stored.version:
        merged = merged.having(
            draft=cached.draft,
            version=cached.version,
            draft_op=cached.draft_op,
            draft_state=cached.draft_state,
            draft_at=cached.draft_at,
            draft_device=cached.draft_device,
        )
    if cached.title_version > stored.title_version:
        merged = merged.having(
            title=cached.title,
            title_version=cached.title_version,
            title_op=cached.title_op,
            title_at=cached.title_at,
            title_device=cached.title_device,
        )
    here = {message.id for message in merged.messages}
    extra = [message for message in cached.messages if message.id not in here]
    if page is None:
        return merged.having(
            messages=cached.messages,
            undelivered=cached.undelivered,
            message_bytes=cached.message_bytes,
        )
    waiting = {message.id: message.status for message in cached.messages if message.status != "delivered"}
    # Though the store has it: its entry says so, with the next `messages_version` and to every device.
    stored_here = [
        message.model_copy(update={"status": waiting[message.id]}) if message.id in waiting else message
        for message in merged.messages
    ]
    return merged.with_messages((*stored_here, *extra), max(len(stored_here) + len(extra), 1))


def _latest(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(one, other) if one is not None and other is not None else one or other
