"""What others change in the store: cached copies go, devices are told, nothing that a person wrote is lost (semantics §7).

A report is a hint. The row is read before anything is done, and only a row that was reported as deleted, and is gone, means a
deleted chat: one that is merely missing may be a store that went back to a backup.
"""

from __future__ import annotations

import secrets

from sidecar.changes import Accepted, ChatInCache, MessageElsewhere, Restore, RestoredDraft, RestoredTitle
from sidecar.chats import bury, commit, load, own_change
from sidecar.errors import KeyGone, Undecryptable
from sidecar.ids import ChatId, MessageId, UserHash
from sidecar.parts import Parts
from sidecar.records import ChatInDB, Deleted
from sidecar.slots.store import Elsewhere
from sidecar.texts import open_draft_of, open_title_of, seal_draft, seal_title

_TRIES = 4


async def take_in(parts: Parts, change: Elsewhere) -> None:
    """Does what the report asks for. Raises `Unavailable`: then it is to be tried again."""
    user, chat_id = change.user, change.chat_id
    if chat_id is None:
        await parts.cache.chats.drop(user, [])
    elif change.message_id is not None:
        await _message(parts, user, chat_id, change.message_id)
    else:
        await _chat(parts, user, chat_id, deleted=change.deleted)


async def _chat(parts: Parts, user: UserHash, chat_id: ChatId, *, deleted: bool) -> None:
    # The row is read last: a write of our own in between makes it newer than what is here, and never older.
    cached = (await parts.cache.chats.read(user, [chat_id])).get(chat_id)
    if isinstance(cached, Deleted):
        return  # deleted here: the row goes, or went, by the outbox
    row = (await parts.store.known(user, [chat_id])).get(chat_id)
    if row is None:
        if deleted and (cached is None or cached.in_store) and await _has_a_key(parts, user, chat_id):
            # The key goes first, as when a person deletes it: copies in backups stay closed too (semantics §8).
            await bury(parts, user, chat_id, cached.key if cached is not None else None)
        return
    # Before anything else: what was read from the store before is worth nothing any more.
    await parts.cache.chats.drop(user, [chat_id])
    await _adopt(parts, user, chat_id, row, cached)


async def _has_a_key(parts: Parts, user: UserHash, chat_id: ChatId) -> bool:
    """Otherwise it is the echo of a deletion or an erasure of our own, which leaves nothing to be done, or nobody's chat."""
    if not await parts.cipher.begun(user, chat_id):
        return False
    return chat_id not in await parts.cipher.destroyed(user, [chat_id])


async def _adopt(parts: Parts, user: UserHash, chat_id: ChatId, row: ChatInDB, before: ChatInCache | None) -> None:
    """What was edited becomes a revision above all that devices hold; what was not stored yet goes on above the row."""
    for _ in range(_TRIES):
        try:
            what = await _edited(parts, row, before)
            unknown = before is None or (what is None and _is_stored(before))
            if unknown:
                # It was not here, or whoever read it since took the edit in without a word to the devices.
                what = _emptied(row)
            if what is None:
                return
            change = own_change(parts, user, chat_id, what)
            found = (await load(parts, user, [chat_id])).chats.get(chat_id)
            if not isinstance(found, ChatInCache):
                return
            outcome = await commit(parts, change)
        except KeyGone:
            await bury(parts, user, chat_id, row.vault_key_reference)
            return
        if unknown or (isinstance(outcome, Accepted) and outcome.draft_lost is None):
            return
        # Somebody wrote in between: on top of that.
        current = (await parts.cache.chats.read(user, [chat_id])).get(chat_id)
        if not isinstance(current, ChatInCache):
            return
        before = current


async def _edited(parts: Parts, row: ChatInDB, before: ChatInCache | None) -> Restore | None:
    """What is to be put into the cache, sealed anew for its version; None: the row as it is says all."""
    draft, title = await _edited_draft(parts, row, before), await _edited_title(parts, row, before)
    return Restore(draft, title, row.messages_version) if draft is not None or title is not None else None


def _emptied(row: ChatInDB) -> Restore | None:
    """What was there is not known, so only a text that is gone can be told: as a revision of its own, for devices have the old one."""
    draft = title = None
    if row.draft is None and row.draft_state == "edited":
        draft = RestoredDraft(None, "deleted", row.version + 1, _new_operation())
    if row.title is None and row.title_version > 0:
        title = RestoredTitle(None, row.title_version + 1, _new_operation())
    return Restore(draft, title, row.messages_version) if draft is not None or title is not None else None


def _is_stored(chat: ChatInCache) -> bool:
    return (chat.version, chat.title_version) == (chat.stored_version, chat.stored_title_version)


async def _edited_draft(parts: Parts, row: ChatInDB, before: ChatInCache | None) -> RestoredDraft | None:
    if before is None:
        return None
    dirty = before.version > before.stored_version
    if dirty and (row.version < before.version or (row.version, row.draft_op) == (before.version, before.draft_op)):
        return None  # it is written over the row in due time, or just was
    if not dirty and (row.version, row.draft_op, row.draft) == (before.version, before.draft_op, before.draft):
        return None
    if not dirty and row.version > before.version:
        return RestoredDraft(row.draft, row.draft_state, row.version, row.draft_op)
    # A text that others put under a number which devices have with another text, or ours under one that others took.
    version = max(row.version, before.version) + 1
    text = before.draft if dirty else row.draft
    sealed = None
    if text is not None:
        try:
            raw = await open_draft_of(parts, before, text, before.version if dirty else row.version)
        except Undecryptable:
            return None  # devices keep what they have, and whoever asks anew is told that it does not open
        sealed = await seal_draft(parts, before.key, before.user, before.id, version, raw)
    state = before.draft_state if dirty else "deleted" if text is None else "edited"
    return RestoredDraft(sealed, state, version, _new_operation())


async def _edited_title(parts: Parts, row: ChatInDB, before: ChatInCache | None) -> RestoredTitle | None:
    if before is None:
        return None
    dirty = before.title_version > before.stored_title_version
    ours = (before.title_version, before.title_op)
    if dirty and (row.title_version < before.title_version or (row.title_version, row.title_op) == ours):
        return None
    if not dirty and (row.title_version, row.title_op, row.title) == (
        before.title_version,
        before.title_op,
        before.title,
    ):
        return None
    if not dirty and row.title_version > before.title_version:
        return RestoredTitle(row.title, row.title_version, row.title_op)
    version = max(row.title_version, before.title_version) + 1
    text = before.title if dirty else row.title
    sealed = None
    if text is not None:
        try:
            title = await open_title_of(parts, before, text, before.title_version if dirty else row.title_version)
        except Undecryptable:
            return None
        sealed = await seal_title(parts, before.key, before.user, before.id, version, title.encode())
    return RestoredTitle(sealed, version, _new_operation())


def _new_operation() -> str:
    return f"elsewhere-{secrets.token_hex(12)}"


async def _message(parts: Parts, user: UserHash, chat_id: ChatId, message_id: MessageId) -> None:
    """The next `messages_version` tells of it; a chat that is gone as a whole is told of by its own report."""
    chat = (await parts.cache.chats.read(user, [chat_id])).get(chat_id)
    if isinstance(chat, Deleted):
        return
    there = message_id in await parts.store.find(user, chat_id, [message_id])
    if there or chat is None:
        await parts.cache.chats.drop(user, [chat_id])
        chat = (await load(parts, user, [chat_id])).chats.get(chat_id)
    if not isinstance(chat, ChatInCache):
        return
    await commit(parts, own_change(parts, user, chat_id, MessageElsewhere(message_id, deleted=not there)))
