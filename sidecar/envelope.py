"""The envelope around everything that a person wrote (semantics §8). Pure: keys and nonces come in as arguments.

    offset  bytes
    0       1      format, 1
    1       1      suite, 1: AES-256-GCM (NIST SP 800-38D) under a subkey by HKDF-SHA-256 (RFC 5869)
    2       4      key version, big-endian
    6       16     key commitment
    22      12     nonce, random
    34      n      ciphertext
    34+n    16     tag

Associated data: the 34 bytes before the ciphertext, then user hash, chat id, field name and record id, each after its
length in 4 bytes big-endian, then the value's version in 8 bytes. What was moved to another place does not open.

AES-GCM alone does not commit to its key: one can make a ciphertext that opens under two keys. So subkey and commitment
come out of the same derivation, and a value is opened only under the key whose commitment it carries.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sidecar.errors import Undecryptable
from sidecar.records import Field, Sealed

KEY_BYTES = 32
NONCE_BYTES = 12
OVERHEAD = 50
"""Bytes that an envelope adds to the plaintext."""

_FORMAT_AND_SUITE = b"\x01\x01"
_INFO = b"directus-sync-sidecar envelope 1"
_COMMITMENT_BYTES = 16
_HEAD = 22  # format, suite, key version, commitment: the part that a key always writes alike
_HEADER = _HEAD + NONCE_BYTES
_VERSION_LIMIT = 2**32
_length = struct.Struct(">I").pack
_value_version = struct.Struct(">Q").pack


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ContentKey:
    """One version of a chat's key, made ready: derive it once with `content_key`, then use it for every value. Shows nothing of the key."""

    version: int
    commitment: bytes
    """16 bytes; public."""
    head: bytes
    """The first 22 bytes of every envelope under this key."""
    aead: AESGCM

    def __repr__(self) -> str:
        return f"ContentKey(version={self.version})"


def content_key(secret: bytes, version: int) -> ContentKey:
    """Derives subkey and commitment from a key of exactly 32 bytes. `ValueError` for another length, or a version outside 1…2^32-1."""
    if len(secret) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(secret)}")
    if not 1 <= version < _VERSION_LIMIT:
        raise ValueError(f"a key version is 1 to {_VERSION_LIMIT - 1}, not {version}")
    info = _INFO + _length(version)
    derived = HKDF(algorithm=SHA256(), length=KEY_BYTES + _COMMITMENT_BYTES, salt=None, info=info).derive(secret)
    commitment = derived[KEY_BYTES:]
    head = _FORMAT_AND_SUITE + _length(version) + commitment
    return ContentKey(version, commitment, head, AESGCM(derived[:KEY_BYTES]))


def seal(key: ContentKey, field: Field, plaintext: bytes, nonce: bytes) -> Sealed:
    """The plaintext sealed for exactly this field. `nonce`: 12 random bytes that this key never saw; only the cipher's shell draws them.

    `ValueError` for a nonce of another length or a field whose version is not in 0…2^64-1.
    """
    if len(nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    header = key.head + nonce
    return Sealed(header + key.aead.encrypt(nonce, plaintext, _associated(header, field)))


def open_(key: ContentKey, field: Field, sealed: Sealed) -> bytes:
    """What was sealed for exactly this field under this key, else `Undecryptable`, which does not say what was wrong."""
    if len(sealed) < OVERHEAD or not hmac.compare_digest(sealed[:_HEAD], key.head):
        raise _does_not_open()
    header = sealed[:_HEADER]
    try:
        return key.aead.decrypt(header[_HEAD:], sealed[_HEADER:], _associated(header, field))
    except (InvalidTag, ValueError):
        raise _does_not_open() from None


def key_version_of(sealed: Sealed) -> int:
    """The key version that this value names, not yet proven. `Undecryptable` for what is no envelope of a known format and suite."""
    if len(sealed) < OVERHEAD or sealed[:2] != _FORMAT_AND_SUITE:
        raise _does_not_open()
    return int.from_bytes(sealed[2:6], "big")


def _associated(header: bytes, field: Field) -> bytes:
    try:
        version = _value_version(field.version)
    except struct.error:
        raise ValueError("the version of a value is 0 to 2^64-1") from None
    return b"".join((header, _place(field.user, field.chat_id, field.name, field.record), version))


@lru_cache(maxsize=1024)  # who types seals for the same place again and again
def _place(*names: str) -> bytes:
    """Each name after its length."""
    texts = [name.encode() for name in names]
    return b"".join([part for text in texts for part in (_length(len(text)), text)])


def _does_not_open() -> Undecryptable:
    return Undecryptable("this value does not open")
