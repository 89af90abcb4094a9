"""The master key, which seals the key file: given in the options, or made once and kept beside the data."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from plugins.encryption.durable import refuse_if_open_to_others, write_file
from plugins.encryption.keyrecords import Wrap
from sidecar import StartRefused

_HEX = re.compile(r"[0-9A-Fa-f]{64}\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?\Z")
_PASSPHRASE = 32
_SCRYPT_N, _SCRYPT_R = 2**15, 8  # 32 MiB and about 0.1 s, once at start (RFC 7914; OWASP's second choice)


class MasterKey:
    """32 bytes, or a passphrase that is stretched to 32 bytes with the salt of the file that it opens."""

    def __init__(self, secret: bytes, *, stretch: bool = False) -> None:
        self._secret = secret
        self._stretch = stretch

    def __repr__(self) -> str:
        return "MasterKey()"

    @classmethod
    def given(cls, text: str) -> MasterKey:
        """From an option: 64 hex digits or 43 to 44 characters of base64 are 32 bytes; any other text of 32 characters or more is a passphrase.

        `ValueError` for a shorter one.
        """
        if _HEX.match(text):
            return cls(bytes.fromhex(text))
        if _BASE64.match(text):
            try:
                secret = base64.b64decode(text.rstrip("=").replace("-", "+").replace("_", "/") + "=", validate=True)
            except binascii.Error:  # pragma: no cover - the pattern lets nothing else through
                secret = b""
            if len(secret) == 32:
                return cls(secret)
        if len(text) < _PASSPHRASE:
            raise ValueError(
                f"a master key is 32 bytes in base64 or hex, or a passphrase of at least {_PASSPHRASE} characters; "
                "make one with: openssl rand -base64 32"
            )
        return cls(text.encode(), stretch=True)

    def wrap(self, salt: bytes) -> Wrap:
        """The wrapping key for the file of this salt."""
        secret = self._secret
        if self._stretch:
            # hashlib's own limit on memory is exactly what n and r need, and one byte too low
            secret = hashlib.scrypt(secret, salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=1, maxmem=2**26, dklen=32)
        info = b"directus-sync-sidecar key file 1"
        return Wrap(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret))


def kept(path: Path, keys: Path) -> MasterKey:
    """The master key in the file at `path`, made if neither it nor the key file is there. Call it under the key file's lock.

    `StartRefused`: the key file is there without it, the file is readable by others, or it holds no key.
    """
    try:
        refuse_if_open_to_others(path)
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        if keys.exists():  # an existing key file must never meet a new master key
            raise StartRefused(
                "encryption",
                f"{keys} is there, but the master key that opens it is not: put {path} back from your backup, "
                "or set encryption.options.master_key if it was made with one. Nothing was changed",
            ) from None
        return _made(path)
    if not _HEX.match(text):
        raise StartRefused("encryption", f"{path} holds no master key (64 hex digits): put it back from your backup")
    return MasterKey(bytes.fromhex(text))


def _made(path: Path) -> MasterKey:
    secret = os.urandom(32)
    write_file(path, secret.hex().encode() + b"\n")
    return MasterKey(secret)
