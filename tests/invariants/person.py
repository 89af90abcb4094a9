"""One person's keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgpack

from plugins.cache.redis_layout import CHAT, ITEM, MESSAGE, PERSON
from tests.invariants.outbox import Outbox
from tests.invariants.reading import named, text

_MESSAGE_WEIGHT = 256
_CHAT_WEIGHT = 512


class Person:
    """One person's keys."""

    def __init__(self, user: str, fields: Mapping[bytes, bytes], keys: Mapping[str, Any], outbox: Outbox) -> None:
        self._user = user
        self._fields = fields
        self._keys = keys
        self._outbox = outbox
        self.chats = {text(name[2:]): named(CHAT, value) for name, value in fields.items() if name[:2] == b"c:"}

    def _key(self, name: str) -> Any:
        return self._keys.get(f"{name}:{self._user}", {})

    def check(self, natural: bool) -> Iterator[str]:
        if b"p" not in self._fields:
            yield "no record of the person"
            return
        person = named(PERSON, self._fields[b"p"])
        yield from self._check_usage(person)
        yield from self._check_log(person)
        yield from self._check_outcomes()
        yield from self._check_places(person)
        for chat, record in self.chats.items():
            yield from (f"{chat}: {line}" for line in self._check_chat(chat, record))
            if natural:
                yield from (f"{chat}: {line}" for line in self._check_promises(chat, record))
        yield from self._check_rest()

    def _check_usage(self, person: Mapping[str, Any]) -> Iterator[str]:
        pinned = [record for record in self.chats.values() if _pinned(record)]
        size = sum(map(_weight, pinned))
        drafts = sum(record["messages_version"] == 0 for record in pinned)
        if (person["p_bytes"], person["p_drafts"]) != (size, drafts):
            yield f"{size} bytes in {drafts} drafts, and says {person['p_bytes']} in {person['p_drafts']}"

    def _check_log(self, person: Mapping[str, Any]) -> Iterator[str]:
        log = self._key("log") or []
        if not person["p_epoch"]:
            if log:
                yield "a log without an epoch"
            return
        if len(log) != person["p_end"] - person["p_base"]:
            yield f"the log goes from {person['p_base']} to {person['p_end']} and has {len(log)} entries"
        tag = named(ITEM, log[-1])["i_tag"] if log else person["p_base_tag"]
        if tag != person["p_tag"]:
            yield f"the log ends with {tag!r} and says {person['p_tag']!r}"

    def _check_outcomes(self) -> Iterator[str]:
        listed = {each.partition(b" ")[2] for each in self._key("outcomes") or []}
        for name in self._fields:
            operation = name.partition(b":")[2]
            if name.startswith(b"o:") and operation not in listed:
                yield f"an outcome that is never forgotten: {operation!r}"
            if name[:3] in (b"rd:", b"rt:") and b"o:" + operation not in self._fields:
                yield f"a text that gave way without its outcome: {operation!r}"

    def _check_places(self, person: Mapping[str, Any]) -> Iterator[str]:
        ends = {text(member): score for member, score in self._key("ends").items()}
        here = {*self.chats, *(text(name) for name in self._fields if name.startswith(b"x:"))}
        if ends.keys() != here:
            yield f"looked at and not here: {ends.keys() - here}, here and never looked at: {here - ends.keys()}"
        if ends and person["p_look"] > min(ends.values()):
            yield f"looks at {person['p_look']}, and something ends at {min(ends.values())}"
        lru = {text(member): score for member, score in self._key("lru").items()}
        evictable = {chat: record["used"] for chat, record in self.chats.items() if record["evictable"]}
        if lru != evictable:
            yield f"may be evicted: {evictable}, in the order of use: {lru}"
        visits = self._keys.get("visits", {}).get(self._user.encode())
        if visits != person["p_visit"]:
            yield f"is visited at {visits} and says {person['p_visit']}"

    def _check_chat(self, chat: str, record: Mapping[str, Any]) -> Iterator[str]:
        for letter, length in (("d", record["draft_length"]), ("t", record["title_length"])):
            text = self._fields.get(f"{letter}:{chat}".encode())
            if (len(text) if text is not None else -1) != length:
                yield f"{letter} has {text and len(text)} bytes and says {length}"
        yield from self._check_messages(chat, record)
        name = f"{self._user}:{chat}"
        entries = self._outbox.of(name)
        free = not _pinned(record) and not entries
        if record["evictable"] and not free:
            yield f"may be evicted: {record}, {entries}"
        if free and not record["evictable"] and name.encode() not in self._keys.get("released", ()):
            yield f"nobody will ever evict it: {record}"
        due = name.encode() in self._keys.get("due", {})
        if due != (record["due_first"] != 0) and not record["doomed"]:
            yield f"due: {due}, and says {record['due_first']}"

    def _check_promises(self, chat: str, record: Mapping[str, Any]) -> Iterator[str]:
        """Where changes were such as a sidecar makes."""
        if record["stored_version"] > record["version"] or record["stored_title_version"] > record["title_version"]:
            yield f"more was stored than there is: {record}"
        if (record["draft_state"] == b"edited") != (record["draft_length"] >= 0):
            yield f"{record['draft_state']!r} with {record['draft_length']} bytes"
        sequences = [message["m_sequence"] for message in self._index(chat)]
        if sorted(set(sequences)) != sequences or max(sequences, default=0) > record["last_sequence"]:
            yield f"the order of messages is {sequences}, the last one {record['last_sequence']}"
        if not self._outbox.plugins or record["doomed"]:
            return
        name = f"{self._user}:{chat}"
        entries = self._outbox.of(name)
        dirty = record["version"] > record["stored_version"]
        dirty = dirty or record["title_version"] > record["stored_title_version"]
        if dirty and record["messages_version"] > 0 and not entries and name.encode() not in self._keys.get("due", {}):
            yield f"nobody will ever write it down: {record}"
        told = {entry["e_message"] for entry in entries}
        for message in self._index(chat):
            if message["m_status"] == b"sent" and message["m_id"] not in told:
                yield f"nobody will ever deliver {message['m_id']!r}"

    def _check_messages(self, chat: str, record: Mapping[str, Any]) -> Iterator[str]:
        index = self._index(chat)
        if len(index) != record["message_count"]:
            yield f"{len(index)} messages, and says {record['message_count']}"
        size = 0
        for message in index:
            body = self._fields.get(f"b:{chat}:".encode() + message["m_id"])
            if body is None:
                yield f"message {message['m_id']!r} without its text"
            elif len(msgpack.unpackb(body, raw=True)[3]) != message["m_size"]:
                yield f"message {message['m_id']!r} of another size than {message['m_size']}"
            size += _MESSAGE_WEIGHT + message["m_size"]
        lacking = [message for message in index if message["m_status"] in (b"sent", b"error")]
        if (size, len(lacking)) != (record["message_bytes"], record["undelivered"]):
            yield f"{size} bytes, {len(lacking)} undelivered, and says {record['message_bytes']}, {record['undelivered']}"

    def _index(self, chat: str) -> list[dict[str, Any]]:
        raw = self._fields.get(f"m:{chat}".encode())
        return [dict(zip(MESSAGE, each, strict=True)) for each in msgpack.unpackb(raw, raw=True)] if raw else []

    def _check_rest(self) -> Iterator[str]:
        """Texts and messages of chats that are not here."""
        for name in self._fields:
            kind, _, rest = name.partition(b":")
            chat = text(rest.partition(b":")[0])
            if kind in (b"d", b"t", b"m", b"b") and chat not in self.chats:
                yield f"{text(name)} without its chat"
            if kind == b"b" and chat in self.chats:
                index = msgpack.unpackb(self._fields.get(b"m:" + chat.encode(), b"\x90"), raw=True)
                if rest.partition(b":")[2] not in {each[0] for each in index}:
                    yield f"{text(name)} is in no index"
            if kind == b"x" and text(rest) in self.chats:
                yield f"{text(rest)} is here, and deleted"


def _pinned(record: Mapping[str, Any]) -> bool:
    return bool(
        record["version"] > record["stored_version"]
        or record["title_version"] > record["stored_title_version"]
        or record["undelivered"] > 0
        or record["messages_version"] == 0
        or record["doomed"]
    )


def _weight(record: Mapping[str, Any]) -> int:
    texts: int = max(record["draft_length"], 0) + max(record["title_length"], 0) + record["message_bytes"]
    return _CHAT_WEIGHT + texts
