"""A person of the memory cache and the same person of the Redis cache, who are asked the same and must answer alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from plugins.cache.memory import Memory
from plugins.cache.memory_watch import Watchers
from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_layout import Keys
from plugins.cache.redis_leases import RedisLeases
from plugins.cache.redis_link import Link
from plugins.cache.redis_notices import Notices
from plugins.cache.redis_outbox import RedisOutbox
from plugins.cache.redis_settings import ScriptSettings
from plugins.cache.redis_tails import Tails
from sidecar import Surroundings
from sidecar.changes import Accepted, Change, ChatInCache, Conflict, Entry, FillToken, Limits, Outcome
from sidecar.cursors import Cursor
from sidecar.ids import ChatId, UserHash
from sidecar.records import Deleted
from sidecar.slots.cache import Cache, Lease

LIMITS = Limits(active=2, draft_chats=4, bytes=20_000, events_kept=40, messages_kept=3, debounce=0.0, max_debounce=0.0)
LISTENERS = ("persistence", "search")


@dataclass(slots=True)
class Side:
    """One of the two."""

    cache: Cache
    lease: Lease
    epochs: list[str]
    """Those that were met, in their order: they are told by their place, since their names are random."""
    cursors: list[Cursor] = field(default_factory=list)
    """Of the changes that were accepted."""

    def place(self, epoch: str) -> int:
        if epoch not in self.epochs:
            self.epochs.append(epoch)
        return self.epochs.index(epoch)


def redis_cache(link: Link, prefix: str) -> Cache:
    """A cache of its own on a server that others use too."""
    settings = ScriptSettings(Keys(prefix, 1), "twin")
    settings.channel = (
        "twin:"  # with the same settings, changes of several that are made at the same moment come together
    )
    tails, watchers = Tails(), Watchers()
    notices = Notices(link, settings.keys, "twin", settings.packed, tails, watchers)
    chats = RedisChats(link, settings, tails, notices, watchers)
    return Cache(chats, RedisOutbox(link, settings, chats), RedisLeases(link, settings))


async def memory_cache(folder: Path, clock: Callable[[], float] | None = None) -> Cache:
    """A cache without a journal: there is nothing to close. `clock` gives seconds since 1970."""
    plugin = Memory(Memory.Options(journal=False), Surroundings(folder, "127.0.0.1"), clock=clock)
    return await plugin.provide_cache()


class Pair:
    """Asks both. Every method compares the answers and returns those of the memory cache."""

    def __init__(self, user: UserHash, memory: Side, redis: Side) -> None:
        self.user = user
        self.memory = memory
        self.redis = redis
        self.tokens: dict[ChatId, tuple[FillToken, FillToken]] = {}

    @classmethod
    async def begin(cls, user: UserHash, memory: Cache, redis: Cache) -> Pair:
        sides = []
        for cache in (memory, redis):
            cache.chats.limits = LIMITS
            await cache.outbox.join(LISTENERS)
            lease = await cache.leases.take("outbox:0", "twin", 3600)
            assert lease is not None
            sides.append(Side(cache, lease, []))
        return cls(user, *sides)

    async def hold(self) -> None:
        """Takes the leases again, whose time may be over."""
        for side in (self.memory, self.redis):
            lease = await side.cache.leases.take("outbox:0", "twin", 3600)
            assert lease is not None
            side.lease = lease

    async def commit(self, change: Change) -> Outcome:
        tokens = self.tokens.get(change.chat_id, (None, None))
        mine = await self.memory.cache.chats.commit(replace(change, token=tokens[0]))
        theirs = await self.redis.cache.chats.commit(replace(change, token=tokens[1]))
        alike(self._plain(mine, self.memory), self._plain(theirs, self.redis), change)
        for side, outcome in ((self.memory, mine), (self.redis, theirs)):
            if isinstance(outcome, Accepted) and outcome.cursor is not None:
                side.cursors.append(outcome.cursor)
        return mine

    async def prepare(self, ids: Sequence[ChatId]) -> None:
        mine = await self.memory.cache.chats.prepare(self.user, ids)
        theirs = await self.redis.cache.chats.prepare(self.user, ids)
        for chat_id in ids:
            self.tokens[chat_id] = (mine, theirs)

    async def fill(self, chats: Sequence[ChatInCache | Deleted], *, older: bool = False) -> None:
        """Fills with these, each in the present epoch of its side, or in an older one."""
        for side, place in ((self.memory, 0), (self.redis, 1)):
            epoch = (await side.cache.chats.events(self.user, None, 0)).head.epoch
            for chat in chats:
                chat_id = chat.chat_id if isinstance(chat, Deleted) else chat.id
                token = self.tokens[chat_id][place]
                record = chat.having(epoch="0" * 20 if older else epoch) if isinstance(chat, ChatInCache) else chat
                await side.cache.chats.fill(self.user, [record], token)

    async def drop(self, ids: Sequence[ChatId] | None) -> None:
        for side in (self.memory, self.redis):
            await side.cache.chats.drop(self.user, ids)

    async def hurry(self) -> None:
        for side in (self.memory, self.redis):
            await side.cache.outbox.hurry(self.user)

    async def read(self, ids: Sequence[ChatId], *, use: bool = False) -> dict[ChatId, ChatInCache | Deleted]:
        mine = await self.memory.cache.chats.read(self.user, ids, use=use)
        theirs = await self.redis.cache.chats.read(self.user, ids, use=use)
        alike(
            {name: self._record(each, self.memory) for name, each in mine.items()},
            {name: self._record(each, self.redis) for name, each in theirs.items()},
            "read",
        )
        return dict(mine)

    async def events(self, back: int, limit: int, damage: str) -> None:
        """The log behind a place that was met `back` changes ago, or behind one that this log never gave out."""
        told = []
        for side in (self.memory, self.redis):
            head = (await side.cache.chats.events(self.user, None, 0)).head
            after = side.cursors[-back] if 0 < back <= len(side.cursors) else head
            match damage:
                case "ahead":
                    after = replace(head, offset=head.offset + 1)
                case "tag":
                    after = replace(head, tag="ffffffff")
                case "older":
                    after = replace(head, epoch=f"{1:012x}" + "0" * 8)
                case _:
                    pass
            answer = await side.cache.chats.events(self.user, after, limit)
            # The sidecar's own changes have random tags.
            items = [replace(item, tag="") for item in answer.items]
            told.append((items, answer.lost, answer.head.offset, side.place(answer.head.epoch)))
        alike(told[0], told[1], f"events {back} {damage}")

    async def entries(self, plugin: str) -> tuple[list[Entry], dict[str, str]]:
        """What waits for this plugin, and the Redis side's ids by the memory side's."""
        mine = list(await self.memory.cache.outbox.pending(self.memory.lease, plugin, 1000))
        theirs = list(await self.redis.cache.outbox.pending(self.redis.lease, plugin, 1000))
        return mine, _paired(mine, theirs, f"pending {plugin}")

    async def parked(self, plugin: str, replay: Sequence[str] = (), drop: Sequence[str] = ()) -> list[Entry]:
        mine = list(await self.memory.cache.outbox.parked(plugin))
        ids = _paired(mine, list(await self.redis.cache.outbox.parked(plugin)), f"parked {plugin}")
        left = list(await self.memory.cache.outbox.parked(plugin, replay, drop))
        theirs = await self.redis.cache.outbox.parked(
            plugin, [ids[each] for each in replay], [ids[each] for each in drop]
        )
        _paired(left, list(theirs), f"parked {plugin} after replay")
        return left

    async def settle(
        self, plugin: str, done: Sequence[str], failed: Sequence[str], parked: Sequence[str], ids: dict[str, str]
    ) -> None:
        await self.memory.cache.outbox.settle(self.memory.lease, plugin, done, failed, parked)
        lists = [[ids[each] for each in names] for names in (done, failed, parked)]
        await self.redis.cache.outbox.settle(self.redis.lease, plugin, *lists)

    async def positions(self) -> None:
        mine = await self.memory.cache.outbox.positions()
        theirs = await self.redis.cache.outbox.positions()
        told = [{name: (each.pending, each.parked) for name, each in side.items()} for side in (mine, theirs)]
        alike(told[0], told[1], "positions")

    # -- what may differ -------------------------------------------------------------------------------------------------

    def _plain(self, outcome: Outcome, side: Side) -> Any:
        if isinstance(outcome, Accepted):
            cursor = outcome.cursor
            return replace(
                outcome,
                chat=self._outcome_record(outcome.chat, side),
                cursor=(cursor.offset, side.place(cursor.epoch)) if cursor is not None else None,  # type: ignore[arg-type]
            )
        if isinstance(outcome, Conflict):
            return replace(outcome, chat=self._outcome_record(outcome.chat, side))
        return outcome

    def _outcome_record(self, chat: ChatInCache | Deleted | None, side: Side) -> Any:
        """The record of an outcome, whose messages a cache on a server leaves out."""
        record = self._record(chat, side)
        return {**record, "messages": None} if isinstance(record, dict) else record

    def _record(self, chat: ChatInCache | Deleted | None, side: Side) -> Any:
        if not isinstance(chat, ChatInCache):
            return chat
        record = {each.name: getattr(chat, each.name) for each in fields(chat)}
        return {**record, "epoch": "old" if chat.epoch == "0" * 20 else side.place(chat.epoch)}


def _paired(mine: list[Entry], theirs: list[Entry], what: str) -> dict[str, str]:
    # Between chats there is no order: those that are due at the same moment come as they lie.
    mine, theirs = (sorted(side, key=lambda entry: (entry.chat_id or "", entry.id)) for side in (mine, theirs))
    alike([_entry(each) for each in mine], [_entry(each) for each in theirs], what)
    return {one.id: other.id for one, other in zip(mine, theirs, strict=True)}


def _entry(entry: Entry) -> Entry:
    # Drafts and titles that became due bear the time of that.
    return replace(entry, id="", at=datetime(1970, 1, 1, tzinfo=UTC) if entry.kind in ("draft", "title") else entry.at)


def alike(mine: Any, theirs: Any, what: Any) -> None:
    """Both, said so that the difference can be found."""
    if mine != theirs:
        # A change is told by its kind: its repr is long.
        name = re.sub(r"\(.*", "", repr(what.what), flags=re.DOTALL) if isinstance(what, Change) else what
        raise AssertionError(f"{name}\nmemory {mine}\nredis  {theirs}\n{what}")
