"""The outbox in Redis: one for each shard, a position for each plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from plugins.cache.redis_chats import RedisChats
from plugins.cache.redis_layout import ENTRY
from plugins.cache.redis_link import Link
from plugins.cache.redis_records import pack, time_of, unpack
from plugins.cache.redis_settings import ScriptSettings
from sidecar import ChatId, Entry, Lease, LeaseLost, MessageId, Outbox, Position, UserHash

_ROUNDS = 5
"""How often one call looks for drafts that became due meanwhile; the rest comes with the next."""


class RedisOutbox(Outbox):
    """The outbox in Redis. A call about every shard is one script for each of them, all in one pipeline."""

    def __init__(self, link: Link, settings: ScriptSettings, chats: RedisChats) -> None:
        self._link = link
        self._settings = settings
        self._keys = settings.keys
        self._chats = chats
        self.shards = settings.keys.shards

    def shard_of(self, user: UserHash) -> int:
        return self._keys.shard_of(user)

    def _call(self, name: str, shard: int, plugin: str, *arguments: bytes | int) -> tuple[Any, ...]:
        return (name, self._keys.outbox(shard), self._settings.packed(shard), plugin.encode(), *arguments)

    def _shard(self, lease: Lease) -> int:
        prefix, _, number = lease.name.partition(":")
        if prefix != "outbox" or not number.isdigit() or int(number) >= self.shards:
            raise LeaseLost(f"{lease.name} is no shard of this outbox")
        return int(number)

    async def join(self, plugins: Sequence[str]) -> None:
        self._settings.plugins = list(dict.fromkeys((*self._settings.plugins, *plugins)))
        names = pack(list(plugins))
        await self._link.run_all(self._call("join", shard, "", names) for shard in range(self.shards))

    async def pending(self, shard: Lease, plugin: str, limit: int) -> Sequence[Entry]:
        number = self._shard(shard)
        fence = str(shard.fence).encode()
        for _ in range(_ROUNDS):
            answer = await self._link.run(
                *self._call("pending", number, plugin, shard.holder.encode(), fence, max(limit, 0))
            )
            if answer[0]:
                raise _lost(shard)
            _, due, released, entries = answer
            if not due and not released:
                return [_entry(each) for each in entries]
            await self._chats.due(number, due, released)
        return []

    async def settle(
        self, shard: Lease, plugin: str, done: Sequence[str], failed: Sequence[str], parked: Sequence[str]
    ) -> None:
        number = self._shard(shard)
        what = pack([list(done), list(failed), list(parked)])
        lost, released = await self._link.run(
            *self._call("settle", number, plugin, shard.holder.encode(), str(shard.fence).encode(), what)
        )
        if lost:
            raise _lost(shard)
        if released:
            await self._chats.due(number, (), released)

    async def parked(self, plugin: str, replay: Sequence[str] = (), drop: Sequence[str] = ()) -> Sequence[Entry]:
        what = pack([list(replay), list(drop)])
        answers = await self._link.run_all(self._call("parked", shard, plugin, what) for shard in range(self.shards))
        for shard, (_, released) in enumerate(answers):
            if released:
                await self._chats.due(shard, (), released)
        return sorted((_entry(each) for entries, _ in answers for each in entries), key=lambda entry: entry.id)

    async def hurry(self, user: UserHash | None = None) -> None:
        if user is not None:
            await self._chats.hurry(user)
        else:
            await self._link.run_all(self._call("hurry_all", shard, "") for shard in range(self.shards))

    async def positions(self) -> Mapping[str, Position]:
        answers = await self._link.run_all(self._call("positions", shard, "") for shard in range(self.shards))
        found: dict[str, Position] = {}
        for answer in answers:
            for name, pending, parked, oldest in answer:
                at = time_of(unpack(oldest)[4]) if oldest is not None else None
                before = found.get(name.decode(), Position(0, 0, None))
                times = [time for time in (at, before.oldest) if time is not None]
                found[name.decode()] = Position(
                    before.pending + pending, before.parked + parked, min(times) if times else None
                )
        return found

    async def forget(self, plugin: str) -> None:
        self._settings.plugins = [name for name in self._settings.plugins if name != plugin]
        await self._link.run_all(self._call("forget", shard, plugin) for shard in range(self.shards))


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"{lease.holder} holds {lease.name} no longer under fence {lease.fence}")


def _entry(told: Sequence[Any]) -> Entry:
    entry_id, packed, tries = told
    user, chat_id, kind, message_id, at, _ = unpack(packed)[: len(ENTRY)]
    return Entry(
        id=entry_id.decode(),
        user=UserHash(user.decode()),
        chat_id=ChatId(chat_id.decode()) if chat_id is not False else None,
        kind=cast(Any, kind.decode()),
        message_id=MessageId(message_id.decode()) if message_id is not False else None,
        at=time_of(at),
        tries=tries,
    )
