"""How the Redis cache lays things out: the places in packed arrays, the keys, and the scripts, which share both.

Records are packed with MessagePack (in the scripts: `cmsgpack`). A script names a place by `@`: `C[@version]` is the place of
`version` in `CHAT`. Numbers are made when the scripts are read, so the two sides cannot drift.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from zlib import crc32

LAYOUT = 1
"""The number of what is described here and in the scripts. Written down in Redis by the first process, and one of another number
does not start. Places may be added at the end of an array: a process that does not know them passes over them and keeps them.
Whatever else changes is a new number."""

CHAT = (
    *("epoch", "key", "created_at", "updated_at", "title_version", "title_op", "title_at", "title_device", "version"),
    *("draft_op", "draft_state", "draft_at", "draft_device", "messages_version", "last_sequence"),
    *("last_message_timestamp", "stored_version", "stored_title_version", "in_store", "doomed", "older"),
    *("undelivered", "message_bytes", "draft_length", "title_length", "message_count", "touched", "used"),
    *("draft_enqueued", "title_enqueued", "due_first", "due_at", "evictable"),
)
"""A chat. Times of what a person sees are in microseconds, lives in milliseconds; a length of -1 is no text."""
PERSON = (
    *("p_epoch", "p_base", "p_base_tag", "p_end", "p_tag", "p_bytes", "p_drafts", "p_uses", "p_seen", "p_polled"),
    *("p_visit", "p_tokens", "p_look", "p_watching"),
)
MESSAGE = ("m_id", "m_sequence", "m_status", "m_at", "m_size", "m_place")
"""A message in the index of its chat; its body stands beside it."""
BODY = ("client_message_id", "role", "sender_name", "content")
ITEM = ("i_tag", "i_kind", "i_chat", "i_version", "i_ref", "i_connection", "i_device", "i_at")
ENTRY = ("e_user", "e_chat", "e_kind", "e_message", "e_at", "e_left")
NEWS = (
    *("n_user", "n_epoch", "n_start", "n_start_tag", "n_items", "n_chat", "n_record", "n_draft", "n_title", "n_place"),
    *("n_body", "n_deleted"),
)
"""What a process is told of another's change."""
REMEMBERED = (
    *("r_digest", "r_at", "r_accepted", "r_reason", "r_kind", "r_version", "r_op", "r_title_version", "r_title_op"),
    *("r_messages_version", "r_message", "r_created", "r_consumed", "r_draft_lost", "r_replaced", "r_since"),
)
CHANGE = (
    *("ch_kind", "ch_chat", "ch_device", "ch_key", "ch_operation", "ch_digest", "ch_at", "ch_connection", "ch_token"),
    *("ch_tag", "ch_what"),
)
WHAT: Mapping[str, tuple[str, ...]] = {
    "draft": ("w_base", "w_base_op", "w_has_content", "w_has_messages"),
    "title": ("w_base", "w_base_op", "w_has_content"),
    "restore": ("w_draft", "w_title", "w_messages_version"),
    "message": (
        *("w_id", "w_size", "w_sequence", "w_created_at", "w_draft_version", "w_draft_op", "w_stored", "w_seen"),
    ),
    "status": ("w_id", "w_status"),
    "elsewhere": ("w_id", "w_deleted"),
    "stored": ("w_id", "w_stored_version", "w_stored_title_version"),
    "epoch": ("w_epoch",),
    "notify": ("w_name",),
}
"""What each kind of change asks, in the order in which `redis_changes` packs it. A name has the same place everywhere."""
RESTORED = (("d_has_content", "d_state", "d_version", "d_op"), ("t_has_content", "t_version", "t_op"))
"""The draft and the title of `restore`."""
SETTINGS = (
    *("skew", "process", "shard", "channel", "active", "ttl", "draft_ttl", "debounce", "max_debounce", "draft_chats"),
    *("bytes", "events_kept", "events_ttl", "tombstones_ttl", "outcomes_ttl", "messages_kept", "plugins"),
)

_USER = re.compile(r"[0-9a-f]{64}")
_NUMBERS = {
    "FIELDS": len(CHAT),
    "MOST": 255,  # fields of any array
    "OUTCOMES": 100_000,  # outcomes kept of a person; the oldest goes first
    "TOKENS": 20_000,
    "NOTICE": 16 * 1024,  # bytes of text that a notice carries; what is larger is read
    "SKEW": 86_400_000,  # how far ahead of ours, in milliseconds, the time of a cursor's epoch is believed
    "PRESENCE": 60_000,  # milliseconds for which a process is written down as one that wants to hear of a person
}
_HEADS = {
    f"{name}_HEAD": 1 if len(names) < 16 else 3
    for name, names in (("CHAT", CHAT), ("CHANGE", CHANGE), ("SETTINGS", SETTINGS))
}
"""How many bytes MessagePack puts before the fields of arrays that a script takes apart without the table that `cmsgpack.unpack`
would have to enlarge again and again. A chat of a newer sidecar has more fields and the same head."""
_PLACES: dict[str, int] = (
    {
        name: place
        for names in (CHAT, PERSON, MESSAGE, ITEM, ENTRY, REMEMBERED, CHANGE, *WHAT.values(), *RESTORED, SETTINGS)
        for place, name in enumerate(names, 1)
    }
    | _NUMBERS
    | _HEADS
)

ALONE = frozenset({"commit_text", "commit_restore"})
"""Changes that append nothing to the outbox."""
_OF_A_PERSON = ("person",)
_ENTRIES = ("outbox_keys", "entries")
_CHANGING = ("person", *_ENTRIES, "burial")
COMMITS: Mapping[str, str] = {
    **dict.fromkeys(("draft", "title"), "commit_text"),
    "restore": "commit_restore",
    "message": "commit_message",
    **dict.fromkeys(("status", "elsewhere", "stored", "doom", "delete", "epoch", "notify"), "commit_own"),
}
"""The script of each kind of change. Each has the parts of the rule that it needs: making a function costs as much as a call."""
_OF_A_SHARD = ("shard", "entries")
_PARTS: Mapping[str, tuple[str, ...]] = {
    "commit_text": ("person", "rule", "rule_texts", "commit"),
    "commit_restore": ("person", "rule", "rule_restore", "commit"),
    "commit_message": ("person", *_ENTRIES, "rule", "rule_index", "rule_messages", "commit"),
    "commit_own": (*_CHANGING, "rule", "rule_index", "rule_own", "commit"),
    "fill": _CHANGING,
    "drop": _CHANGING,
    "due": ("person", *_ENTRIES),
    **dict.fromkeys(("read", "prepare", "events", "here", "sweep", "hurry"), _OF_A_PERSON),
    **dict.fromkeys(("pending", "settle", "parked", "join", "positions", "forget", "hurry_all"), _OF_A_SHARD),
    **dict.fromkeys(("lease", "look", "absent", "visits", "agreed"), ()),
}


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server knows it."""

    name: str
    text: bytes
    sha: bytes
    """Hex SHA-1 of the text, by which EVALSHA names it."""
    many: bool = False
    """It carries out several calls at once: their keys one after the other, the first argument once, then the others of each. It
    answers with an array, in which each call has its own answer, an error too."""


def numbered(text: str) -> str:
    """Lua with a number for each `@name`."""
    return re.sub(r"@(\w+)", lambda found: str(_PLACES[found[1]]), text)


@cache
def script(name: str) -> Script:
    """The script of this name, put together of its parts."""
    folder = files("plugins.cache") / "lua"
    parts = _PARTS[name] if name.startswith("commit_") else (*_PARTS[name], name)
    sources = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts]
    text = numbered("\n".join(sources)).encode()
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(name, text, sha, many=name.startswith("commit_"))


class Keys:
    """The keys of persons and shards. The shard is the hash tag, so that all keys of a step lie in one slot."""

    def __init__(self, prefix: str, shards: int) -> None:
        self.prefix = prefix
        self.shards = shards
        self._shard = [self._shard_keys(number) for number in range(shards)]
        self.person = lru_cache(maxsize=10_000)(self._person)
        """The keys of a person, for scripts that leave the outbox alone; each costs as much as a small call."""
        self.person_and_outbox = lru_cache(maxsize=10_000)(self._person_and_outbox)
        """Those, and the outbox of the person's shard."""

    def shard_of(self, user: str) -> int:
        """By the hash of a hash: a person's shard stays as long as their number does."""
        return crc32(user.encode()) % self.shards

    def shard_of_lease(self, name: str) -> int:
        """The lease on a shard's work lies in that shard, one of a person (`connections:<hash>`, `device:<hash>:…`) with the person, so
        that nobody needs more than one node of a cluster; any other by the hash of its name."""
        prefix, _, rest = name.partition(":")
        if prefix == "outbox" and rest.isdigit() and int(rest) < self.shards:
            return int(rest)
        if (user := rest.partition(":")[0]) and _USER.fullmatch(user):
            return self.shard_of(user)
        return crc32(name.encode()) % self.shards

    def key(self, shard: int, name: str) -> bytes:
        """`prefix:{shard}:name`."""
        return f"{self.prefix}:{{{shard}}}:{name}".encode()

    def _person(self, user: str) -> tuple[bytes, ...]:
        shard = self.shard_of(user)
        base = f"{self.prefix}:{{{shard}}}:"
        names = ("person", "log", "outcomes", "tokens", "lru", "ends")
        due, _, _, _, index, visits, _, _ = self._shard[shard]
        return (*(f"{base}{name}:{user}".encode() for name in names), due, visits, index)

    def _person_and_outbox(self, user: str) -> tuple[bytes, ...]:
        _, waiting, parked, data, _, _, released, _ = self._shard[self.shard_of(user)]
        return (*self._person(user), waiting, parked, data, released)

    def outbox(self, shard: int) -> tuple[bytes, ...]:
        """The keys of a script of a shard's outbox, in its order."""
        due, waiting, parked, data, index, _, released, lease = self._shard[shard]
        return (due, waiting, parked, data, index, released, lease)

    def lease(self, name: str) -> tuple[int, tuple[bytes, ...]]:
        """The shard of a lease, and the keys of its script."""
        shard = self.shard_of_lease(name)
        return shard, (self.key(shard, f"lease:{name}"), self.key(shard, "outbox"))

    def visits(self, shard: int) -> bytes:
        return self._shard[shard][5]

    def _shard_keys(self, number: int) -> tuple[bytes, ...]:
        names = ("due", "waiting", "parked", "outbox", "index", "visits", "released", f"lease:outbox:{number}")
        return tuple(self.key(number, name) for name in names)
