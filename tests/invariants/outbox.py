"""The outbox of a shard: entries, who waits for them, and under which chat they stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from plugins.cache.redis_layout import ENTRY
from tests.invariants.reading import named, text


@dataclass(slots=True)
class Outbox:
    """Entries as their members and the index tell of them."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    waiting: set[tuple[str, str]] = field(default_factory=set)
    """Plugin and id."""
    parked: set[tuple[str, str]] = field(default_factory=set)
    chats: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    """By `user:chat`, as the index has it."""
    plugins: list[str] = field(default_factory=list)

    def of(self, name: str) -> list[dict[str, Any]]:
        return [self.entries[id_] for _, id_ in self.chats.get(name, ()) if id_ in self.entries]


def outbox_of(keys: Mapping[str, Any]) -> Outbox:
    """What the keys of a shard say of it."""
    fields: Mapping[bytes, bytes] = keys.get("outbox", {})
    outbox = Outbox()
    if b"plugins" in fields:
        outbox.plugins = [text(each) for each in msgpack.unpackb(fields[b"plugins"], raw=True) or ()]
    for field_name, value in fields.items():
        if field_name.startswith(b"e:"):
            outbox.entries[text(field_name[2:])] = named(ENTRY, value)
    for members, key in ((outbox.waiting, "waiting"), (outbox.parked, "parked")):
        for member in keys.get(key, {}):
            plugin, _, entry = text(member).partition("\x1f")
            members.add((plugin, entry))
    for member in keys.get("index", {}):
        name, plugin, entry = text(member).split("\x1f")
        outbox.chats.setdefault(name, set()).add((plugin, entry))
    return outbox


def check_outbox(fields: Mapping[bytes, bytes], outbox: Outbox) -> Iterator[str]:
    """Entries, index and members agree."""
    if both := outbox.waiting & outbox.parked:
        yield f"waits and is parked: {both}"
    members = outbox.waiting | outbox.parked
    indexed = {each for found in outbox.chats.values() for each in found}
    if members != indexed:
        yield f"members that the index has not: {members - indexed}, and the other way round: {indexed - members}"
    for plugin, entry in members:
        if entry not in outbox.entries:
            yield f"{plugin} waits for {entry}, which is not here"
    for entry, record in outbox.entries.items():
        left = {each for each in members if each[1] == entry}
        if len(left) != record["e_left"]:
            yield f"entry {entry} waits for {left} and says {record['e_left']}"
        if not left <= outbox.chats.get(_chat_of(record), set()):
            yield f"entry {entry} is indexed under another chat"
    yield from _check_parked(fields, outbox)
    for name, value in fields.items():
        if name.startswith(b"y:"):
            plugin, _, entry = text(name[2:]).partition("\x1f")
            if (plugin, entry) not in members:
                yield f"tries of an entry that is not here: {plugin} {entry}"
        if name.startswith(b"t:"):
            yield from _check_open(text(name[2:]), text(value), members, outbox)


def _chat_of(entry: Mapping[str, Any]) -> str:
    return f"{text(entry['e_user'])}:{text(entry['e_chat']) if entry['e_chat'] else ''}"


def _check_parked(fields: Mapping[bytes, bytes], outbox: Outbox) -> Iterator[str]:
    parked: dict[str, int] = {}
    for plugin, entry in {each for each in outbox.parked if each[1] in outbox.entries}:
        chat = _chat_of(outbox.entries[entry])
        parked[f"{plugin}\x1f{chat}"] = parked.get(f"{plugin}\x1f{chat}", 0) + 1
        for other, later in outbox.chats.get(chat, set()) & outbox.waiting:
            if other == plugin and later > entry:
                yield f"{entry} is parked for {plugin}, and {later} waits behind it"
    counted = {text(name[2:]): int(value) for name, value in fields.items() if name.startswith(b"k:")}
    if counted != parked:
        yield f"parked: {parked}, and says {counted}"


def _check_open(name: str, entry: str, members: set[tuple[str, str]], outbox: Outbox) -> Iterator[str]:
    """A draft's or title's entry that a later edit goes along with."""
    plugin, chat, kind = name.split("\x1f")
    record = outbox.entries.get(entry)
    if (plugin, entry) not in members or record is None:
        yield f"an open {kind} of {chat} for {plugin} that is not here: {entry}"
    elif (_chat_of(record), text(record["e_kind"])) != (chat, kind):
        yield f"an open {kind} of {chat} that is {record}"
