from __future__ import annotations

import os
from dataclasses import replace
from itertools import permutations, product
from typing import Literal

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sidecar.envelope import OVERHEAD, ContentKey, content_key, key_version_of, open_, seal
from sidecar.errors import Undecryptable
from sidecar.ids import ChatId, UserHash
from sidecar.records import Field, Sealed

SECRET = bytes(range(32))
NONCE = bytes(range(100, 112))
FIELD = Field(UserHash("ab" * 32), ChatId("abababab_c1"), "draft", "abababab_c1", 4)
TEXT = b'{"type":"doc"}'


@pytest.fixture(scope="module")
def key() -> ContentKey:
    return content_key(SECRET, 1)


def test_round_trip_and_length(key: ContentKey) -> None:
    for plaintext in (b"", TEXT, os.urandom(128 * 1024)):
        sealed = seal(key, FIELD, plaintext, NONCE)
        assert len(sealed) == len(plaintext) + OVERHEAD
        assert open_(key, FIELD, sealed) == plaintext


def test_the_format_stays_as_it_is(key: ContentKey) -> None:
    """Values sealed by an older release must open: this vector never changes."""
    vector = "010100000001ba57bb71bd0187d992b7da614f70183d6465666768696a6b6c6d6e6fc5a0e658935b7a02edd8c4b635086bf0371a47fb9984810a4b27f65c2576"
    assert seal(key, FIELD, TEXT, NONCE).hex() == vector
    assert open_(key, FIELD, Sealed(bytes.fromhex(vector))) == TEXT


def test_the_layout_is_the_documented_one() -> None:
    key = content_key(SECRET, 0x01020304)
    sealed = seal(key, FIELD, TEXT, NONCE)
    assert sealed[:6] == bytes([1, 1, 1, 2, 3, 4])
    assert sealed[6:22] == key.commitment
    assert sealed[22:34] == NONCE
    assert key_version_of(sealed) == 0x01020304
    parts = [part.encode() for part in (FIELD.user, FIELD.chat_id, FIELD.name, FIELD.record)]
    associated = sealed[:34] + b"".join(len(part).to_bytes(4, "big") + part for part in parts) + (4).to_bytes(8, "big")
    assert key.aead.decrypt(NONCE, sealed[34:], associated) == TEXT


def test_t29_no_envelope_with_a_flipped_bit_opens(key: ContentKey) -> None:
    """T29: each bit of each byte."""
    sealed = seal(key, FIELD, TEXT, NONCE)
    for at, bit in product(range(len(sealed)), range(8)):
        flipped = Sealed(sealed[:at] + bytes([sealed[at] ^ 1 << bit]) + sealed[at + 1 :])
        with pytest.raises(Undecryptable):
            open_(key, FIELD, flipped)


def test_what_is_too_short_or_longer_does_not_open(key: ContentKey) -> None:
    sealed = seal(key, FIELD, TEXT, NONCE)
    for value in (*(sealed[:length] for length in range(len(sealed))), sealed + b"\0", b"\0" + sealed, TEXT):
        with pytest.raises(Undecryptable):
            open_(key, FIELD, Sealed(value))
    for value in (b"", sealed[:33], sealed[: OVERHEAD - 1], b"\x02" + sealed[1:], b"\x01\x02" + sealed[2:]):
        with pytest.raises(Undecryptable):
            key_version_of(Sealed(value))


def test_t27_s62_a_value_opens_only_in_its_place(key: ContentKey) -> None:
    """T27, S62: under one and the same key, every pair of 6 fields, 3 chats and 2 users, swapped, does not open."""
    kinds: list[tuple[Literal["title", "draft", "message"], str, int]] = [
        ("title", "r", 1),
        ("title", "r", 2),
        ("draft", "r", 1),
        ("draft", "r", 2),
        ("message", "m1", 0),
        ("message", "m2", 0),
    ]
    places = [
        Field(UserHash(user * 32), ChatId(chat), *kind)
        for user, chat, kind in product(("aa", "ab"), ("x_1", "x_2", "x_3"), kinds)
    ]
    sealed = {place: seal(key, place, TEXT, NONCE) for place in places}
    for one, other in permutations(places, 2):
        with pytest.raises(Undecryptable):
            open_(key, other, sealed[one])
    for place in places:
        assert open_(key, place, sealed[place]) == TEXT


def test_t27_parts_of_a_place_cannot_be_shifted_into_each_other(key: ContentKey) -> None:
    """T27: lengths are bound too, so that user 'ab' chat 'c' is not user 'a' chat 'bc'."""
    sealed = seal(key, replace(FIELD, user=UserHash("ab"), chat_id=ChatId("c")), TEXT, NONCE)
    with pytest.raises(Undecryptable):
        open_(key, replace(FIELD, user=UserHash("a"), chat_id=ChatId("bc")), sealed)


def test_t34_a_ciphertext_does_not_open_under_another_key() -> None:
    """T34: a ciphertext whose tag is right under two keys, which AES-GCM alone allows, opens only under the one it commits to."""
    one, other = content_key(SECRET, 1), content_key(os.urandom(32), 1)
    sealed = seal(one, FIELD, TEXT, NONCE)
    with pytest.raises(Undecryptable):
        open_(other, FIELD, sealed)
    # Other's own valid ciphertext, bearing the first key's commitment in header and associated data: as good a forgery as there is.
    header = one.head + NONCE
    parts = [part.encode() for part in (FIELD.user, FIELD.chat_id, FIELD.name, FIELD.record)]
    associated = header + b"".join(len(part).to_bytes(4, "big") + part for part in parts) + (4).to_bytes(8, "big")
    forged = Sealed(header + other.aead.encrypt(NONCE, TEXT, associated))
    assert other.aead.decrypt(NONCE, forged[34:], associated) == TEXT
    for key in (one, other):
        with pytest.raises(Undecryptable):
            open_(key, FIELD, forged)


def test_t33_the_key_version_is_part_of_key_and_commitment() -> None:
    """T33: the same secret under another version is another key; a value renamed to another version does not open."""
    first, second = content_key(SECRET, 1), content_key(SECRET, 2)
    assert first.commitment != second.commitment
    sealed = seal(first, FIELD, TEXT, NONCE)
    for renamed in (sealed, Sealed(second.head + sealed[22:])):
        with pytest.raises(Undecryptable):
            open_(second, FIELD, renamed)


def test_the_secret_itself_is_never_the_encryption_key(key: ContentKey) -> None:
    assert AESGCM(SECRET).encrypt(NONCE, TEXT, b"") != key.aead.encrypt(NONCE, TEXT, b"")


@pytest.mark.parametrize("secret", [b"", bytes(16), bytes(31), bytes(33)])
def test_keys_of_another_length_are_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        content_key(secret, 1)


@pytest.mark.parametrize("version", [-1, 0, 2**32])
def test_key_versions_out_of_range_are_refused(version: int) -> None:
    with pytest.raises(ValueError, match="version"):
        content_key(SECRET, version)


def test_bad_nonces_and_value_versions_are_refused(key: ContentKey) -> None:
    with pytest.raises(ValueError, match="nonce"):
        seal(key, FIELD, TEXT, b"short")
    for version in (-1, 2**64):
        with pytest.raises(ValueError, match="version"):
            seal(key, replace(FIELD, version=version), TEXT, NONCE)
        with pytest.raises(Undecryptable):
            open_(key, replace(FIELD, version=version), seal(key, FIELD, TEXT, NONCE))


def test_t38_a_key_shows_nothing_of_itself(key: ContentKey) -> None:
    assert repr(key) == str(key) == "ContentKey(version=1)"
