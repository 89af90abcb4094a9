"""Old envelopes made new: `keys-reseal` (semantics §8).

It goes through the store chat by chat; each is finished by itself, so that it can be stopped at any place and run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from sidecar.changes import ChatInCache
from sidecar.chats import bury
from sidecar.envelope import key_version_of
from sidecar.errors import KeyGone, Unavailable, Undecryptable
from sidecar.ids import ChatId, KeyReference, MessageId, UserHash
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, OperationRefused, progress, result
from sidecar.operations.scope import Scope, chunks, keys_in, refuse_end_to_end, rows_in, scope_of
from sidecar.operations.work import Work
from sidecar.parts import Parts
from sidecar.records import ChatInDB, Field, MessageInDB, Sealed
from sidecar.slots.cipher import Cipher
from sidecar.slots.keyed_cipher import KeyedCipher

_PAGE = 200
_TELL = 50
"""Chats between two lines of progress."""
_NAMED = 100
"""Values that do not open are counted all, and named in the result up to so many; the log names all."""

log = structlog.get_logger("sidecar.operations")


@dataclass(slots=True)
class _Counts:
    """Of chats, but for `values` and `undecryptable`."""

    resealed: int = 0
    unchanged: int = 0
    deleted: int = 0
    values: int = 0
    undecryptable: int = 0
    named: list[dict[str, Any]] = field(default_factory=list)

    @property
    def chats(self) -> int:
        return self.resealed + self.unchanged + self.deleted


async def reseal(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Seals again what is stored under an older version of its key. Versions and revisions stay as they are.

    Result: `count` chats resealed (`values` of them), `unchanged`, `deleted` (their key was destroyed: the row goes),
    `undecryptable` values, left as they are and named in `undecryptable_values`, and `left`: chats in the cache that still
    have old envelopes which the store will get later.
    """
    refuse_end_to_end(work.parts)
    scope = scope_of(arguments)
    counts = _Counts()
    try:
        async for row in rows_in(work.parts, scope):
            await _Chat(work.parts, row, counts).reseal()
            if counts.chats % _TELL == 0:
                yield progress(counts.chats)
            await asyncio.sleep(0)  # whoever edits has the turn in between
        left = await _left(work.parts, scope)
    except Unavailable as error:
        raise OperationRefused(
            f"{error}; {counts.resealed} chats were resealed until then",
            "run it again when that part answers: it goes on with what is left",
        ) from error
    work.wake()
    yield progress(counts.chats, counts.chats)
    yield result(
        count=counts.resealed,
        values=counts.values,
        unchanged=counts.unchanged,
        deleted=counts.deleted,
        undecryptable=counts.undecryptable,
        undecryptable_values=counts.named,
        left=left,
    )


async def newest_version(cipher: Cipher, user: UserHash, chat_id: ChatId, key: KeyReference) -> int | None:
    """The version with which this key seals now, read at its source; None for a cipher whose values name none.

    Raises `KeyGone`, `Undecryptable` (there is no such key), `Unavailable`.
    """
    if isinstance(cipher, KeyedCipher):
        return max(await cipher.read_key(key))
    try:
        return key_version_of(await cipher.seal(key, Field(user, chat_id, "title", chat_id, 0), b""))
    except Undecryptable:
        return None


class _Chat:
    """One row of the store and its messages."""

    def __init__(self, parts: Parts, row: ChatInDB, counts: _Counts) -> None:
        self._parts = parts
        self._row = row
        self._counts = counts
        self._newest: int | None = None
        self._fresh = False
        self._done = 0

    async def reseal(self) -> None:
        row, parts, counts = self._row, self._parts, self._counts
        try:
            self._newest = await newest_version(parts.cipher, row.hashed_user_id, row.id, row.vault_key_reference)
            await self._values()
        except KeyGone:
            await bury(parts, row.hashed_user_id, row.id, row.vault_key_reference)
            counts.deleted += 1
            return
        except Undecryptable:
            self._note("key", row.id)
        if not self._done:
            counts.unchanged += 1
            return
        counts.resealed += 1
        counts.values += self._done
        # Clean copies would keep the old envelopes for as long as they are used; dirty ones stay, as `left` says.
        await parts.cache.chats.drop(row.hashed_user_id, [row.id])

    async def _values(self) -> None:
        row, store = self._row, self._parts.store
        title = await self._again("title", row.id, row.title_version, row.title)
        draft = await self._again("draft", row.id, row.version, row.draft)
        changed = row.model_copy(update={"title": title or row.title, "draft": draft or row.draft})
        texts = title is not None or draft is not None
        before: MessageId | None = None
        while True:
            page = await store.messages(row.hashed_user_id, row.id, before, _PAGE)
            messages: list[MessageInDB] = []
            for message in page.items:
                content = await self._again("message", message.id, 0, message.content)
                if content is not None:
                    messages.append(message.model_copy(update={"content": content}))
            if texts or messages:
                await store.reseal(changed, messages)
                self._done += len(messages) + (title is not None) * texts + (draft is not None) * texts
                texts = False
            if not page.more or not page.items:
                return
            before = page.items[-1].id
            await asyncio.sleep(0)

    async def _again(
        self, name: Literal["title", "draft", "message"], record: str, version: int, sealed: Sealed | None
    ) -> Sealed | None:
        """The value sealed with the newest version; None where it has that already, is not there, or does not open."""
        if sealed is None or _is_of(self._newest, sealed):
            return None
        row, cipher = self._row, self._parts.cipher
        where = Field(row.hashed_user_id, row.id, name, record, version)
        if isinstance(cipher, KeyedCipher) and not self._fresh:
            # A copy in memory may be of before a rotation elsewhere, and sealing would use that.
            cipher.drop_cached(row.vault_key_reference)
            self._fresh = True
        try:
            plaintext = await cipher.open(row.vault_key_reference, where, sealed)
        except Undecryptable:
            self._note(name, record)
            return None
        return await cipher.seal(row.vault_key_reference, where, plaintext)

    def _note(self, name: str, record: str) -> None:
        row, counts = self._row, self._counts
        counts.undecryptable += 1
        log.warning("a stored value does not open", user=row.hashed_user_id, chat=row.id, kind=name, message_id=record)
        if len(counts.named) < _NAMED:
            counts.named.append({"user": row.hashed_user_id, "chat": row.id, "field": name, "record": record})


def _is_of(newest: int | None, sealed: Sealed) -> bool:
    """Whether the value was sealed with that version. What names no version was not, unless no value of this cipher does."""
    if newest is None:
        return False
    try:
        return key_version_of(sealed) == newest
    except Undecryptable:
        return False


async def _left(parts: Parts, scope: Scope) -> int:
    """Chats in the cache with envelopes of older key versions: dirty ones, and those without a message."""
    left = 0
    async for chunk in chunks(keys_in(parts, scope), _PAGE):
        users: dict[UserHash, list[ChatId]] = {}
        for target in chunk:
            users.setdefault(target.user, []).append(target.chat_id)
        for user, ids in users.items():
            for chat in (await parts.cache.chats.read(user, ids)).values():
                if isinstance(chat, ChatInCache) and not chat.doomed:
                    left += await _has_old(parts.cipher, chat)
        await asyncio.sleep(0)
    return left


async def _has_old(cipher: Cipher, chat: ChatInCache) -> bool:
    try:
        newest = await newest_version(cipher, chat.user, chat.id, chat.key)
    except (KeyGone, Undecryptable):
        return False
    return newest is not None and not all(_is_of(newest, sealed) for sealed in _values_of(chat))


def _values_of(chat: ChatInCache) -> Iterator[Sealed]:
    for sealed in (chat.title, chat.draft, *(message.content for message in chat.messages)):
        if sealed is not None:
            yield sealed
