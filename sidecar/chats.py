"""Chats as the use cases find them: in the cache, else in the store, merged where both know something (semantics §6–§8).

`load` brings chats into the cache for use; `peek` looks without installing anything, as a sync does. A chat whose deletion
was begun and not finished is finished by whoever meets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sidecar.changes import Accepted, Change, ChatInCache, DeleteChat, FillToken, Outcome, Unmerged, What
from sidecar.errors import KeyGone, Unavailable
from sidecar.frames.envelope import ClientFrame
from sidecar.ids import ChatId, ConnectionId, DeviceId, KeyReference, UserHash
from sidecar.merge import merge
from sidecar.parts import Caller, Parts
from sidecar.records import Deleted, MessageInDB, Page
from sidecar.slots.keyed_cipher import KeyedCipher

_TRIES = (
    16  # each try lost a race against an accepted change of the same chat, such as the delivery of one of many messages
)

Found = ChatInCache | Deleted


@dataclass(frozen=True, slots=True)
class Loaded:
    chats: Mapping[ChatId, Found]
    """Absent: neither cache nor store knows the chat."""
    token: FillToken | None
    """Proof, for `Change.token`, that the store was asked about the absent ones."""


async def load(
    parts: Parts,
    user: UserHash,
    ids: Sequence[ChatId],
    *,
    use: bool = False,
    trust_new: bool = False,
    begins: bool = False,
) -> Loaded:
    """These chats, brought into the cache with their newest messages.

    `trust_new`: the chat is new as far as can be told (see `key_of`), which has to do while the store cannot be asked.
    `begins`: the caller begins the key of a chat that nobody knows, or just has; that tells whether it was destroyed, and is not
    asked here too.
    Raises `Unavailable` when cache or store cannot be asked.
    """
    cache = parts.cache.chats
    here = await _present(parts, user, ids, use=use)
    wanted = [chat_id for chat_id in ids if chat_id not in here]
    if not wanted:
        return Loaded(here, None)
    token = await cache.prepare(user, wanted)
    epoch, cached = await _read(parts, user, wanted)  # again, under the token: something may have come in between
    try:
        rows = await parts.store.known(user, wanted)
        pages = await asyncio.gather(*(_newest(parts, user, chat_id) for chat_id in rows))
    except Unavailable:
        if not trust_new or cached:
            raise
        rows, pages = {}, []
    newest = dict(zip(rows, pages, strict=True))
    doubtful = [chat_id for chat_id in wanted if chat_id in rows or chat_id in cached] if begins else wanted
    marked = await _marked(parts, user, doubtful, cached)
    fills: list[ChatInCache | Deleted] = []
    for chat_id in wanted:
        record = cached.get(chat_id)
        if isinstance(record, Deleted):
            here[chat_id] = record
            continue
        if chat_id in marked:
            here[chat_id] = await _tombstone(parts, user, chat_id, None)
            continue
        if record is not None and record.epoch == epoch:
            here[chat_id] = record  # it came meanwhile, and knows more than a row that was read behind it
            continue
        merged = merge(record, rows.get(chat_id), epoch, newest.get(chat_id))
        if merged is not None:
            here[chat_id] = merged
            fills.append(merged)
    if fills:
        await cache.fill(user, fills, token)
    used = [chat_id for chat_id in wanted if use and isinstance(here.get(chat_id), ChatInCache)]
    if used:
        await cache.read(user, used, use=True)
    return Loaded(here, token)


async def _newest(parts: Parts, user: UserHash, chat_id: ChatId) -> Page[MessageInDB]:
    return await parts.store.messages(user, chat_id, None, parts.settings.cache.messages_kept)


async def _read(
    parts: Parts, user: UserHash, ids: Sequence[ChatId], *, use: bool = False
) -> tuple[str, Mapping[ChatId, Found]]:
    """The present epoch and what the cache has of these chats, of whatever epoch.

    Asked at once: if an epoch begins in between, what was read is of another one than the one that is told, in either order,
    and is treated as what is not here.
    """
    chats = parts.cache.chats
    events, found = await asyncio.gather(chats.events(user, None, 0), chats.read(user, ids, use=use))
    return events.head.epoch, found


async def _present(parts: Parts, user: UserHash, ids: Sequence[ChatId], *, use: bool = False) -> dict[ChatId, Found]:
    """What the cache has of the present epoch; unfinished deletions are finished."""
    epoch, cached = await _read(parts, user, ids, use=use)
    here: dict[ChatId, Found] = {}
    for chat_id, record in cached.items():
        if isinstance(record, ChatInCache):
            if record.doomed:
                record = await bury(parts, user, chat_id, record.key)
            elif record.epoch != epoch:
                continue
        here[chat_id] = record
    return here


async def peek(parts: Parts, user: UserHash, ids: Sequence[ChatId]) -> dict[ChatId, Found]:
    """These chats without their older messages, nothing installed; absent: neither cache nor store knows the chat."""
    here = await _present(parts, user, ids)
    wanted = [chat_id for chat_id in ids if chat_id not in here]
    if wanted:
        epoch, cached = await _read(parts, user, wanted)
        rows = await parts.store.known(user, wanted)
        marked = await _marked(parts, user, wanted, cached)
        for chat_id in wanted:
            record = cached.get(chat_id)
            if isinstance(record, Deleted):
                here[chat_id] = record
                continue
            if chat_id in marked:
                here[chat_id] = await _tombstone(parts, user, chat_id, None)
                continue
            present = record is not None and record.epoch == epoch
            merged = record if present else merge(record, rows.get(chat_id), epoch)
            if merged is not None:
                here[chat_id] = merged
    return here


async def _marked(
    parts: Parts, user: UserHash, wanted: Sequence[ChatId], cached: Mapping[ChatId, Found]
) -> Collection[ChatId]:
    """Those whose key was destroyed: deleted, whatever the store still has and though the tombstone was lost (semantics §8)."""
    unsure = [chat_id for chat_id in wanted if not isinstance(cached.get(chat_id), Deleted)]
    return await parts.cipher.destroyed(user, unsure) if unsure else ()


async def commit(
    parts: Parts,
    change: Change,
    *,
    trust_new: bool = False,
    again: Callable[[Found | None], Awaitable[What]] | None = None,
) -> Outcome:
    """One change. Where the chat is not in the cache the store is asked and the change tried again.

    `again` says, of the chat as it was found then, what the change asks now; None: the same.
    """
    for _ in range(_TRIES):
        outcome = await parts.cache.chats.commit(change)
        if not isinstance(outcome, Unmerged):
            return outcome
        loaded = await load(parts, change.user, [change.chat_id], trust_new=trust_new, begins=trust_new)
        found = loaded.chats.get(change.chat_id)
        what = await again(found) if again is not None else change.what
        # Proof that nobody knows the chat, and only that: one that was found may have been kept out of the cache since,
        # by a new epoch or an eviction, and must not begin anew.
        change = replace(change, token=loaded.token if found is None else None, what=what)
    raise Unavailable("cache", "the chat changed too often meanwhile", retry_after=0.2)


async def key_of(
    parts: Parts, user: UserHash, chat_id: ChatId, *, trust_new: bool = False
) -> KeyReference | Deleted | None:
    """The chat's key; the tombstone of a deleted chat; None for a chat that nobody knows. `trust_new`: see `seek`."""
    return (await seek(parts, user, chat_id, trust_new=trust_new))[0]


async def seek(
    parts: Parts, user: UserHash, chat_id: ChatId, *, trust_new: bool = False
) -> tuple[KeyReference | Deleted | None, FillToken | None]:
    """The chat's key, or the tombstone of a deleted chat; or None for a chat that nobody knows, with the proof of it.

    `trust_new`: the client says that the chat is new, which is believed while the store cannot be asked, unless it has a
    key: a frame that is sent again says so too, of a chat that was stored meanwhile. Where the answer is None, the caller
    begins the key, and hears then whether it was destroyed.
    """
    key = parts.references.get(user, chat_id)
    if key is not None:
        return key, None
    try:
        loaded = await load(parts, user, [chat_id], use=True, begins=trust_new)
    except Unavailable:
        if not trust_new or await parts.cipher.begun(user, chat_id):
            raise
        return None, None
    found = loaded.chats.get(chat_id)
    if isinstance(found, ChatInCache):
        parts.references.keep(user, chat_id, found.key)
        return found.key, None
    return found, loaded.token if found is None else None


async def begin(parts: Parts, user: UserHash, chat_id: ChatId) -> KeyReference | Deleted:
    """The key of a chat that begins now, made if need be; a tombstone where its key was destroyed before."""
    try:
        key = await parts.cipher.begin(user, chat_id)
    except KeyGone:
        return await _tombstone(parts, user, chat_id, None)
    parts.references.keep(user, chat_id, key)
    return key


def forget_key(parts: Parts, user: UserHash, chat_id: ChatId) -> None:
    """Drops what this process remembers of the key of a chat that was deleted, here or elsewhere (semantics §8)."""
    key = parts.references.get(user, chat_id)
    if key is None:
        return
    parts.references.drop(user, chat_id)
    if isinstance(parts.cipher, KeyedCipher):
        parts.cipher.drop_cached(key)


async def bury(
    parts: Parts, user: UserHash, chat_id: ChatId, key: KeyReference | None, caller: Caller | None = None
) -> Deleted:
    """Ends a chat: its key is destroyed and marked, then the tombstone is written. Again is the same.

    `key` None: it is not known; one is made if there is none, since only a destroyed key leaves a mark.
    """
    parts.references.drop(user, chat_id)
    try:
        await parts.cipher.destroy(key if key is not None else await parts.cipher.begin(user, chat_id))
    except KeyGone:
        pass  # destroyed before: only the tombstone is missing
    return await _tombstone(parts, user, chat_id, caller)


async def _tombstone(parts: Parts, user: UserHash, chat_id: ChatId, caller: Caller | None) -> Deleted:
    change = own_change(parts, user, chat_id, DeleteChat(), caller)
    outcome = await parts.cache.chats.commit(change)
    if not isinstance(outcome, Accepted) or outcome.deleted is None:
        raise AssertionError("a deletion is always accepted")
    parts.references.drop(user, chat_id)
    return outcome.deleted


def client_change(
    parts: Parts,
    caller: Caller,
    frame: ClientFrame,
    chat_id: ChatId,
    key: KeyReference,
    what: What,
    token: FillToken | None = None,
) -> Change:
    """A change that a client asked for, under its operation id; `token`: the proof of `seek`, of a chat that it begins."""
    return Change(
        user=caller.user,
        device=caller.device,
        chat_id=chat_id,
        key=key,
        operation=frame.id,
        digest=frame.digest,
        at=parts.now(),
        what=what,
        connection=caller.connection,
        token=token,
    )


def own_change(parts: Parts, user: UserHash, chat_id: ChatId, what: What, caller: Caller | None = None) -> Change:
    """A change that the sidecar makes itself, or the last step of one that a client asked for."""
    device: DeviceId | None = caller.device if caller is not None else None
    connection: ConnectionId | None = caller.connection if caller is not None else None
    return Change(
        user=user,
        device=device,
        chat_id=chat_id,
        key=KeyReference(""),
        operation=None,
        digest=b"",
        at=parts.now(),
        what=what,
        connection=connection,
    )
