"""The key file's records: how they look, what they add up to, and how damage is told from a write that was cut short.

The file is a header and then records, which are only ever appended. All numbers are big-endian.

    header   magic 8, format 1, salt 16, generation 16, check 28, CRC-32 of all that 4
    record   kind 1, slot 32, version 4, body length 2, CRC-32 of all that 4, body, CRC-32 of the body 4

`slot` is the SHA-256 of user hash and chat id. A body is nonce 12, ciphertext, tag 16: AES-256-GCM under the wrapping key,
with kind, slot and version as associated data, so that it opens wherever in the file it stands, and for nothing else. The
plaintext of a KEY is key 32, user hash, a zero byte, chat id; of a MARK its time in milliseconds 8; of a FORGOTTEN nothing.

    KEY        one version of a chat's key
    MARK       the chat's key was destroyed: the bodies of its KEYs before this are overwritten with zeros
    FORGOTTEN  as if the slot had never been: nothing of it before this counts

The generation is drawn anew whenever the file is written anew, so that other processes see that positions have changed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sidecar import StartRefused

KEY, MARK, FORGOTTEN = 1, 2, 3

_MAGIC = b"SIDEKEYS"
_FORMAT = 1
_SALT = 16
_NONCE = 12
_HEADER_BODY = 8 + 1 + _SALT + 16 + _NONCE + 16
HEADER_BYTES = _HEADER_BODY + 4
_HEAD = struct.Struct(">B32sIH")
_CRC = struct.Struct(">I")
_HEAD_BYTES = _HEAD.size + _CRC.size
_TIME = struct.Struct(">Q")


class Damaged(Exception):
    """The file is not as it was written. The text says what and where, and holds nothing of a key."""


class WrongMasterKey(Exception):
    """The header is whole, but was sealed with another master key."""


@dataclass(frozen=True, slots=True)
class Record:
    kind: int
    slot: bytes
    version: int
    """Of the key, for KEY; else 0."""
    body: bytes
    at: int
    """Where the body begins in the file."""
    intact: bool = True

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return _HEAD_BYTES + len(self.body) + _CRC.size

    @property
    def shredded(self) -> bool:
        """Whether the body was overwritten."""
        return not any(self.body)

    def encoded(self) -> bytes:
        """As it stands in a file."""
        head = _HEAD.pack(self.kind, self.slot, self.version, len(self.body))
        return head + _crc(head) + self.body + _crc(self.body)


@dataclass(frozen=True, slots=True)
class Slot:
    """What holds for one chat: its keys, by version from 1, or since when it is destroyed."""

    keys: tuple[Record, ...] = ()
    mark: Record | None = None


class Wrap:
    """Seals and opens the bodies of records with the wrapping key."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def __repr__(self) -> str:
        return "Wrap()"

    def record(self, kind: int, slot: bytes, version: int, plaintext: bytes) -> bytes:
        """A whole record, ready to append."""
        body = self._seal(plaintext, _associated(kind, slot, version))
        return Record(kind, slot, version, body, _HEAD_BYTES).encoded()

    def open(self, record: Record) -> bytes:
        """The plaintext of a record. `Damaged` when it does not open."""
        try:
            if record.intact:
                associated = _associated(record.kind, record.slot, record.version)
                return self._aead.decrypt(record.body[:_NONCE], record.body[_NONCE:], associated)
        except (InvalidTag, ValueError):
            pass
        raise Damaged(f"the record at byte {record.at - _HEAD_BYTES} does not open")

    def header(self, salt: bytes) -> bytes:
        """A header of a new generation."""
        start = _MAGIC + bytes([_FORMAT]) + salt + os.urandom(16)
        start += self._seal(b"", start)
        return start + _crc(start)

    def check(self, header: bytes) -> None:
        """`WrongMasterKey` unless this header was sealed with this wrapping key."""
        start, sealed = header[: -_NONCE - 16 - 4], header[-_NONCE - 16 - 4 : -4]
        try:
            self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], start)
        except InvalidTag:
            raise WrongMasterKey from None

    def _seal(self, plaintext: bytes, associated: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, plaintext, associated)


def new_salt() -> bytes:
    return os.urandom(_SALT)


def salt_of(header: bytes) -> bytes:
    """The salt in a header. `Damaged` for what is no header of ours."""
    if not header.startswith(_MAGIC):
        raise Damaged("it does not begin as a key file")
    if len(header) < HEADER_BYTES or header[_HEADER_BODY:HEADER_BYTES] != _crc(header[:_HEADER_BODY]):
        raise Damaged("its header is damaged")
    if header[8] != _FORMAT:
        raise Damaged(f"its format {header[8]} is not known here: it was written by a newer version")
    return header[9 : 9 + _SALT]


def key_plaintext(secret: bytes, user: str, chat_id: str) -> bytes:
    return secret + user.encode() + b"\0" + chat_id.encode()


def read_key_plaintext(plaintext: bytes) -> tuple[bytes, str, str]:
    """Key, user hash, chat id."""
    user, _, chat_id = plaintext[32:].partition(b"\0")
    return plaintext[:32], user.decode(), chat_id.decode()


def mark_plaintext(milliseconds: int) -> bytes:
    return _TIME.pack(milliseconds)


def read_mark_plaintext(plaintext: bytes) -> datetime:
    seconds, milliseconds = divmod(_TIME.unpack(plaintext)[0], 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)


def scan(data: bytes, start: int) -> tuple[list[Record], int]:
    """The whole records in `data`, which stands at byte `start` of the file, and the place in the file where they end.

    What follows that place is a last record that was cut short: too few bytes for it, or, as some file systems leave
    after a loss of power, zeros from within it to the end. Anything else that is wrong is `Damaged`.
    """
    records: list[Record] = []
    at = 0
    written = len(data.rstrip(b"\0"))
    while at < len(data):
        after_head = at + _HEAD_BYTES
        if after_head > len(data):
            break
        head = data[at : at + _HEAD.size]
        if data[at + _HEAD.size : after_head] != _crc(head):
            if written < after_head:  # and so its body never came to the disk
                break
            raise Damaged(f"the record at byte {start + at} is damaged")
        kind, slot, version, length = _HEAD.unpack(head)
        after_body = after_head + length
        end = after_body + _CRC.size
        if end > len(data):
            break
        body = data[after_head:after_body]
        intact = data[after_body:end] == _crc(body)
        if not intact and written <= after_body:
            break
        if kind not in (KEY, MARK, FORGOTTEN):
            raise Damaged(f"the record at byte {start + at} is of kind {kind}: it was written by a newer version")
        records.append(Record(kind, slot, version, body, start + after_head, intact))
        at = end
    return records, start + at


@dataclass(slots=True)
class Slots:
    """What the records add up to."""

    by_slot: dict[bytes, Slot] = field(default_factory=dict)
    to_shred: list[Record] = field(default_factory=list)
    """Records that no longer count and whose bodies are not yet overwritten."""
    dead_bytes: int = 0
    forgotten: bool = False
    """Whether a FORGOTTEN stands in the file."""

    def replay(self, records: Iterable[Record], wrap: Wrap) -> set[bytes]:
        """Adds records in the order of the file and returns the slots that they touch. `Damaged` when one that counts does not open.

        After `Damaged` this object is half changed: read the file from its beginning into a new one.
        """
        touched: set[bytes] = set()
        fresh: list[Record] = []
        for record in records:
            touched.add(record.slot)
            fresh.append(record)
            slot = self.by_slot.get(record.slot, Slot())
            if record.kind == KEY:
                if slot.mark is not None or record.version != len(slot.keys) + 1:
                    raise Damaged(f"the record at byte {record.at - _HEAD_BYTES} does not follow from those before it")
                self.by_slot[record.slot] = replace(slot, keys=(*slot.keys, record))
                continue
            self._bury(slot)
            if record.kind == MARK:
                self.by_slot[record.slot] = Slot(mark=record)
            else:
                self.by_slot.pop(record.slot, None)
                self.dead_bytes += record.size
                self.forgotten = True
        counting = {id(each) for slot in map(self.by_slot.get, touched) if slot for each in (*slot.keys, slot.mark)}
        for record in fresh:
            # What does not count any more may be half overwritten: it is not opened, whatever it is.
            if id(record) in counting or record.kind == FORGOTTEN:
                wrap.open(record)
        return touched

    def _bury(self, slot: Slot) -> None:
        for record in (*slot.keys, *((slot.mark,) if slot.mark else ())):
            self.dead_bytes += record.size
            if not record.shredded:
                self.to_shred.append(record)


def _associated(kind: int, slot: bytes, version: int) -> bytes:
    return b"directus-sync-sidecar key record 1" + _HEAD.pack(kind, slot, version, 0)


def _crc(content: bytes) -> bytes:
    return _CRC.pack(zlib.crc32(content))


def refusal_of(path: Path, error: Damaged | WrongMasterKey | OSError) -> StartRefused:
    """What a failure to open the file at `path` is called at start."""
    match error:
        case WrongMasterKey():
            why = (
                f"{path} was sealed with another master key: set encryption.options.master_key to the one it was made with "
                "(leave it out if it was made without: then its master.key is used). Nothing was changed"
            )
        case Damaged():
            why = f"{path} is damaged: {error}. Put it back from your backup; nothing was changed"
        case OSError():
            why = f"{path} cannot be used: {error.strerror}"
    return StartRefused("encryption", why)
