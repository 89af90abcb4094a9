"""The chats of everybody, in Redis: each method is one script, or one for each chat."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from zlib import crc32

from plugins.cache.memory_watch import Watchers
from plugins.cache.redis_changes import asked, outcome_of
from plugins.cache.redis_layout import ALONE, COMMITS
from plugins.cache.redis_link import Link
from plugins.cache.redis_notices import Notices
from plugins.cache.redis_records import (
    body_of,
    chat_of,
    fields_of,
    index_of,
    item_of,
    messages_of,
    micro,
    pack,
    time_of,
    unpack,
)
from plugins.cache.redis_settings import ScriptSettings
from plugins.cache.redis_tails import Tails
from sidecar import (
    Accepted,
    Change,
    ChatId,
    ChatInCache,
    Chats,
    Cursor,
    Deleted,
    Events,
    FillToken,
    Fresh,
    Limits,
    NewEpoch,
    Outcome,
    UserHash,
)

_READ_AT_ONCE = 50
"""Chats that one script reads, so that no other waits long for its turn."""


def _random() -> bytes:
    """Eight hex digits: scripts draw no random numbers."""
    return os.urandom(4).hex().encode()


class RedisChats(Chats):
    """Chats in Redis."""

    def __init__(
        self, link: Link, settings: ScriptSettings, tails: Tails, notices: Notices, watchers: Watchers
    ) -> None:
        self._link = link
        self._settings = settings
        self._keys = settings.keys
        self._tails = tails
        self._notices = notices
        self._watchers = watchers

    @property
    def limits(self) -> Limits:
        """The core's settings."""
        return self._settings.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._settings.limits = limits

    def _head(self, user: UserHash) -> tuple[bytes, bytes, bytes]:
        """What every script of a person begins with."""
        return self._settings.packed(self._keys.shard_of(user)), user.encode(), _random()

    async def commit(self, change: Change) -> Outcome:
        user = change.user
        operation = change.operation
        tag = f"{crc32(operation.encode()):08x}" if operation is not None else os.urandom(4).hex()
        kind, what, first, second = asked(change, tag)
        name = COMMITS[kind]
        alone = name in ALONE
        keys = self._keys.person(user) if alone else self._keys.person_and_outbox(user)
        # Changes of several shards may come together only if all of them come with the same settings.
        settings = self._settings.packed(None if alone else self._keys.shard_of(user))
        answer = await self._link.run(
            name, keys, settings, user.encode(), _random(), what, first, second, lane="changes"
        )
        outcome, step = outcome_of(change, tag, first, second, answer)
        if step is not None:
            self._tails.add(user, step)
        if step is not None or (isinstance(change.what, NewEpoch) and isinstance(outcome, Accepted)):
            self._watchers.grew(user)
        return outcome

    async def read(
        self, user: UserHash, ids: Sequence[ChatId], *, use: bool = False
    ) -> Mapping[ChatId, ChatInCache | Deleted]:
        found: dict[ChatId, ChatInCache | Deleted] = {}
        if not ids:
            return found
        keys = self._keys.person(user)
        parts = [ids[at : at + _READ_AT_ONCE] for at in range(0, len(ids), _READ_AT_ONCE)]
        answers = await self._link.run_all(("read", keys, *self._head(user), pack([list(part), use])) for part in parts)
        for part, answer in zip(parts, answers, strict=True):
            for each in answer:
                chat_id = part[each[0] - 1]
                if len(each) == 2:
                    found[chat_id] = Deleted(user, chat_id, time_of(int(each[1])))
                else:
                    _, fields, draft, title, index, bodies = each
                    messages = messages_of(user, chat_id, index, bodies)
                    found[chat_id] = chat_of(user, chat_id, unpack(fields), draft, title, messages)
        return found

    async def prepare(self, user: UserHash, ids: Sequence[ChatId]) -> FillToken:
        value = os.urandom(12).hex()
        await self._link.run("prepare", self._keys.person(user), *self._head(user), pack(list(ids)), value.encode())
        return FillToken(user, value)

    async def fill(self, user: UserHash, chats: Sequence[ChatInCache | Deleted], token: FillToken) -> None:
        if token.user != user:
            return
        keys = self._keys.person_and_outbox(user)
        calls = []
        for chat in chats:
            if chat.user != user:
                continue
            texts: tuple[bytes, ...]
            if isinstance(chat, Deleted):
                what, texts = [token.value, chat.chat_id, micro(chat.at), None, []], (b"", b"")
            else:
                what = [token.value, chat.id, None, fields_of(chat), index_of(chat.messages)]
                texts = (chat.draft or b"", chat.title or b"", *(body_of(message) for message in chat.messages))
            calls.append(("fill", keys, *self._head(user), pack(what), *texts))
        await self._link.run_all(calls)

    async def drop(self, user: UserHash, ids: Sequence[ChatId] | None) -> None:
        what = b"person" if ids is None else b"clean"
        if ids is None or ids:
            await self._link.run(
                "drop", self._keys.person_and_outbox(user), *self._head(user), what, pack(list(ids or ()))
            )

    async def events(self, user: UserHash, after: Cursor | None, limit: int) -> Events:
        before = self._tails.head(user)
        asked_for = pack([after.epoch, after.offset, after.tag] if after is not None else [])
        answer = await self._link.run("events", self._keys.person(user), *self._head(user), asked_for, limit)
        epoch, end, tag, lost, packed = answer
        head = Cursor(epoch.decode(), end, tag.decode())
        self._tails.saw(user, head, before)
        if lost is not None:
            return Events((), head, "epoch_changed" if lost == b"epoch_changed" else "cursor_expired")
        start = after.offset if after is not None else 0
        return Events(tuple(item_of(each, start + number) for number, each in enumerate(packed, 1)), head)

    def grown(self, user: UserHash, after: Cursor) -> bool:
        return self._tails.grown(user, after)

    def fresh(self, user: UserHash, after: Cursor, limit: int) -> Fresh | None:
        return self._tails.behind(user, after, limit)

    def follow(self, user: UserHash) -> None:
        self._notices.follow(user)

    def unfollow(self, user: UserHash) -> None:
        self._notices.unfollow(user)

    def watch(self) -> AsyncIterator[UserHash]:
        return self._watchers.watch()

    async def here(
        self, user: UserHash, before: tuple[datetime, ChatId] | None, limit: int
    ) -> tuple[Sequence[ChatInCache], bool, int]:
        """The chats that are here, newest first, without messages; whether there are more; how many only the cache knows."""
        place = pack([micro(before[0]), before[1]] if before is not None else [])
        answer = await self._link.run("here", self._keys.person(user), *self._head(user), place, limit)
        drafts, more, chats = answer
        found = [
            chat_of(user, ChatId(chat_id.decode()), unpack(fields), draft, title)
            for chat_id, fields, draft, title in chats
        ]
        return found, bool(more), drafts

    async def due(self, shard: int, due: Sequence[bytes], released: Sequence[bytes]) -> None:
        """Appends the entries of these drafts and titles (`user:chat`), and looks at chats that entries have let go of."""
        persons: dict[str, tuple[list[str], list[str]]] = {}
        for place, members in enumerate((due, released)):
            for member in members:
                user, _, chat_id = member.decode().partition(":")
                persons.setdefault(user, ([], []))[place].append(chat_id)
        await self._link.run_all(
            ("due", self._keys.person_and_outbox(user), *self._head(UserHash(user)), pack(list(chats)))
            for user, chats in persons.items()
        )

    async def hurry(self, user: UserHash) -> None:
        await self._link.run("hurry", self._keys.person(user), *self._head(user))

    async def sweep(self, user: UserHash) -> bool:
        """Lets go of what is over of this person; whether there is more to do at once."""
        return bool(await self._link.run("sweep", self._keys.person(user), *self._head(user)))
