"""The form of an entry in Vault. What hands make of it is tried on a real Vault (tests/vault/test_bad_input.py)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.encryption.vault_entry import Damaged, Entry, Mark, encoded, read, reference, slot_in, slot_of, tombstone
from sidecar import ChatId, KeyReference, Undecryptable, UserHash

USER, CHAT = UserHash("a1" * 32), ChatId("a1a1a1a1_first")
WRAPPED = "vault:v3:AAAABBBBCCCC+/=="


@given(st.dictionaries(st.integers(1, 999), st.binary(min_size=32, max_size=32), min_size=1), st.booleans())
def test_what_was_written_is_read(keys: dict[int, bytes], begun: bool) -> None:
    entry = Entry(USER, CHAT, {each: encoded(secret) for each, secret in keys.items()}, WRAPPED if begun else None, 999)
    assert read(entry.slot, entry.data(), {"version": 999, "custom_metadata": None}) == entry


@given(st.text(max_size=80), st.text(max_size=80))
def test_t36_a_slot_is_hex_whatever_the_names_are(user: str, chat_id: str) -> None:
    """T36: no text of a client is part of a path or a reference."""
    slot = slot_of(
        UserHash(user.encode("utf-8", "replace").decode()), ChatId(chat_id.encode("utf-8", "replace").decode())
    )
    assert re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{64}", slot)
    assert slot_in(reference(slot, None)) == slot_in(reference(slot, WRAPPED)) == slot


def test_all_chats_of_a_person_are_in_one_shard() -> None:
    assert len({slot_of(USER, ChatId(str(number)))[:2] for number in range(50)}) == 1
    assert len({slot_of(UserHash(str(number)), CHAT)[:2] for number in range(2000)}) == 256


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vault:",
        "vault:00/00",
        f"vault:00/{'0' * 63}g",
        f"vault:00/{'0' * 64}/x",
        f"vault:00/{'0' * 64}\n",
        f"vault:00/../{'0' * 61}",
        f"vault:00/{'0' * 64}:",
        f"vault:00/{'0' * 64}:vault:v1:a b",
        f"local:{'0' * 64}",
    ],
)
def test_what_is_no_reference_of_ours_is_undecryptable(text: str) -> None:
    with pytest.raises(Undecryptable):
        slot_in(KeyReference(text))


def test_a_mark_counts_whatever_became_of_its_time() -> None:
    for time in ("2026-11-26T12:00:00.000Z", "yesterday", "", "2026-11-26"):
        found = read("00/x", None, {"version": 2, "custom_metadata": {"destroyed_at": time or "?"}})
        assert isinstance(found, Mark)
        assert found.at.tzinfo is not None
    half = read("00/x", tombstone(datetime.now(UTC)), {"version": 2})
    assert isinstance(half, Mark)
    assert not half.finished


@pytest.mark.parametrize("metadata", [{"version": 0}, {"version": "1"}, {"version": True}])
def test_a_version_that_is_none_is_damage(metadata: dict[str, object]) -> None:
    entry = Entry(USER, CHAT, {1: encoded(bytes(32))})
    with pytest.raises(Damaged):
        read(entry.slot, entry.data(), metadata)
