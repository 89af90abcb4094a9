"""What stands in Vault for one chat. Pure: no I/O.

    path    {path}/{shard}/{chat}     shard: 2 hex digits of SHA-256 of the user hash; chat: SHA-256 of user hash and chat id
    data    format  "1"
            user    the user hash
            chat    the chat id
            keys    {"1": key, "2": key, …}: every version in every entry's newest version, so that none ever falls out of the ten
                    that KV v2 keeps. A key is 32 bytes in base64, or in transit mode what transit made of it (`vault:v1:…`)
            begun   in transit mode: the first wrapped key as it was made, which is the chat's reference
            check   SHA-256 over all of this, so that a slip of a hand does not pass for a key
    mark    custom metadata `destroyed_at`, and no version that is not destroyed

A key's version is the number that Vault gave to the entry with which it came. So an entry that somebody put back or edited by hand
leaves a gap, and no version is ever given twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sidecar import ChatId, KeyReference, Undecryptable, UserHash

DESTROYED_AT = "destroyed_at"
_FORMAT = "1"
_REFERENCE = re.compile(r"vault:([0-9a-f]{2}/[0-9a-f]{64})(?::(vault:v[0-9]{1,9}:[A-Za-z0-9+/=]{1,200}))?")
_SLOT = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
WRAPPED = re.compile(r"vault:v[0-9]{1,9}:[A-Za-z0-9+/=]{1,200}")


class Damaged(Undecryptable):
    """There is an entry, and it cannot be used: somebody's hand was in it. The text says what to mend."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The key was destroyed."""

    at: datetime
    number: int
    """The entry's newest version in Vault."""
    finished: bool
    """No version is left."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A living key."""

    user: UserHash
    chat_id: ChatId
    keys: Mapping[int, str] = field(repr=False)
    begun: str | None = field(default=None, repr=False)
    number: int = 0
    """The entry's newest version in Vault."""

    @property
    def slot(self) -> str:
        return slot_of(self.user, self.chat_id)

    @property
    def reference(self) -> KeyReference:
        return reference(self.slot, self.begun)

    def data(self) -> dict[str, Any]:
        """As it is written."""
        keys = {str(version): key for version, key in sorted(self.keys.items())}
        data: dict[str, Any] = {"format": _FORMAT, "user": self.user, "chat": self.chat_id, "keys": keys}
        if self.begun is not None:
            data["begun"] = self.begun
        return data | {"check": _check(data)}


def shard_of(user: UserHash) -> str:
    return _digest(user)[:2]


def slot_of(user: UserHash, chat_id: ChatId) -> str:
    """Where a chat's key is, below `path`. No text of a client is part of it (threats T36)."""
    both = f"{user}\0{chat_id}"
    return f"{shard_of(user)}/{_digest(both)}"


def is_slot(text: str) -> bool:
    return _SLOT.fullmatch(text) is not None


def reference(slot: str, begun: str | None) -> KeyReference:
    return KeyReference(f"vault:{slot}:{begun}" if begun is not None else f"vault:{slot}")


def slot_in(key: KeyReference) -> str:
    """The slot that a reference names. Raises `Undecryptable`."""
    found = _REFERENCE.fullmatch(key)
    if found is None:
        raise Undecryptable("this reference is none of encryption.vault's")
    return found[1]


def encoded(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def decoded(key: str) -> bytes:
    """The 32 bytes of a key that is not wrapped. Raises `Damaged`."""
    try:
        secret = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        raise Damaged("its key is no base64") from None
    if len(secret) != 32:
        raise Damaged(f"its key has {len(secret)} bytes, not 32")
    return secret


def read(slot: str, data: Any, metadata: Mapping[str, Any]) -> Entry | Mark:
    """What Vault answered, taken at its word in nothing. Raises `Damaged`."""
    number = metadata["version"]
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise Damaged("it has no version")
    mark = (metadata.get("custom_metadata") or {}).get(DESTROYED_AT)
    if mark is None and isinstance(data, dict) and data.keys() == {DESTROYED_AT}:
        mark = data[DESTROYED_AT]
    if mark is not None:
        return Mark(_time(mark), number, finished=data is None)
    if not isinstance(data, dict):
        raise Damaged("it holds no key")
    if data.get("format") != _FORMAT:
        raise Damaged("it is of a format that this sidecar does not know")
    keys, begun = data.get("keys"), data.get("begun")
    if not isinstance(keys, dict) or not keys or not all(isinstance(each, str) for each in keys.values()):
        raise Damaged("it holds no key")
    if begun is not None and not (isinstance(begun, str) and WRAPPED.fullmatch(begun)):
        raise Damaged("the wrapped key with which it began is none")
    if not all(_VERSION.fullmatch(version) for version in keys):
        raise Damaged("a version of its key is no number")
    if data.get("check") != _check({name: value for name, value in data.items() if name != "check"}):
        raise Damaged("it was edited by hand")
    if max(map(int, keys)) > number:
        raise Damaged("a version of its key is higher than Vault's own")
    for key in keys.values():
        if not WRAPPED.fullmatch(key):
            decoded(key)
    entry = Entry(UserHash(data["user"]), ChatId(data["chat"]), {int(each): keys[each] for each in keys}, begun, number)
    if entry.slot != slot:
        raise Damaged("it is the entry of another chat")
    return entry


def tombstone(at: datetime) -> dict[str, str]:
    """What is written over a key before all versions are destroyed: a rotation that is under way finds that it came too late."""
    return {DESTROYED_AT: _written(at)}


def mark_metadata(at: datetime) -> dict[str, str]:
    return {DESTROYED_AT: _written(at)}


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time(text: Any) -> datetime:
    """A mark counts, whatever a hand made of its time."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return datetime.fromtimestamp(0, UTC)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _check(data: Mapping[str, Any]) -> str:
    parts = [str(data.get(name, "")) for name in ("format", "user", "chat", "begun")]
    keys = data.get("keys")
    for version, key in sorted(keys.items()) if isinstance(keys, dict) else ():
        parts += [str(version), str(key)]
    return _digest("\0".join(parts))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()  # a hand may have written anything
