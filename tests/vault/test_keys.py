"""The life of a key in KV v2: made once, rotated, destroyed, forgotten (semantics §8)."""

from __future__ import annotations

import asyncio
import re

import pytest

from plugins.encryption import vault_entry
from plugins.encryption.vault_cipher import VaultCipher
from sidecar import ChatId, KeyGone, KeyReference
from sidecar.envelope import key_version_of
from tests.sealing import TEXT, USER, chat, field, kept_for_the_next, listed, opens, seal, unknown_make_no_key
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import Vault
from tests.vault.world import OTHER, at, by_hand, metadata_of, opened


async def test_keys_and_marks_are_there_for_the_next_process(vault_server: Vault) -> None:
    async with kept_for_the_next(lambda: opened(vault_server)) as cipher:
        assert [chat_id for _, _, chat_id in await listed(cipher)] == [chat(1)]


async def test_the_entry_is_where_the_documentation_says(vault_server: Vault) -> None:
    async with opened(vault_server, path="team/sidecar") as cipher:
        key, _ = await seal(cipher, 1)
        [entry] = await vault_server.entries()
        assert re.fullmatch(r"team/sidecar/[0-9a-f]{2}/[0-9a-f]{64}", entry)
        assert key == f"vault:{entry.removeprefix('team/sidecar/')}"
        secrets = await cipher.read_key(key)
    data = await vault_server.read(f"{vault_server.mount}/data/{entry}")
    assert data is not None
    assert data["data"]["data"]["keys"] == {"1": vault_entry.encoded(secrets[1])}


async def test_a_key_that_was_just_made_is_not_read_again(start_vault: StartVault) -> None:
    vault = await start_vault(kept=False)
    await vault.audit()
    async with opened(vault) as cipher:
        before = len(vault.audited())
        key, sealed = await seal(cipher, 1)
        assert await opens(cipher, 1, key, sealed)
        asked = [each["request"]["operation"] for each in vault.audited()[before:] if each["type"] == "request"]
        assert asked == ["create"]


async def test_s61_t35_those_who_lose_the_race_use_the_winners_key(vault_server: Vault) -> None:
    """S61, T35: two processes, 40 chats, each begun by both at once: one key each, and every text opens for both."""
    async with opened(vault_server) as one, opened(vault_server) as two:
        both = await asyncio.gather(*(seal(cipher, number) for number in range(40) for cipher in (one, two)))
        for number in range(40):
            (first, a), (second, b) = both[2 * number : 2 * number + 2]
            assert first == second
            for cipher in (one, two):
                assert await opens(cipher, number, first, a)
                assert await opens(cipher, number, first, b)
        assert len(await vault_server.entries()) == 40


async def test_s63_twenty_rotations_lose_no_version(vault_server: Vault) -> None:
    """S63: KV v2 keeps ten versions of an entry, and each of them holds every version of the key."""
    async with opened(vault_server) as cipher, opened(vault_server) as other:
        key, first = await seal(cipher, 1)
        sealed = [first]
        for _ in range(20):
            await cipher.rotate(key)
            sealed.append(await cipher.seal(key, field(chat(1)), TEXT))
        assert [key_version_of(each) for each in sealed] == list(range(1, 22))
        for each in sealed:
            assert await opens(other, 1, key, each)
    held = await metadata_of(vault_server, 1)
    assert len(held["versions"]) == 10  # the oldest have gone, and were not needed


async def test_s63_rotations_at_once_each_give_a_version(vault_server: Vault) -> None:
    async with opened(vault_server) as one, opened(vault_server) as two:
        key, sealed = await seal(one, 1)
        await asyncio.gather(*(cipher.rotate(key) for cipher in (one, two, one, two)))
        assert sorted(await one.read_key(key)) == [1, 2, 3, 4, 5]
        assert await opens(two, 1, key, sealed)


async def test_what_another_process_rotated_opens_at_once(vault_server: Vault) -> None:
    """F23: the copy in memory is older than the rotation."""
    async with opened(vault_server) as one, opened(vault_server) as two:
        key, sealed = await seal(one, 1)
        assert await opens(two, 1, key, sealed)
        await one.rotate(key)
        newer = await one.seal(key, field(chat(1)), TEXT)
        assert await opens(two, 1, key, newer)


# -- destruction -------------------------------------------------------------------------------------------------------


async def test_t47_destroying_leaves_metadata_with_a_mark_and_no_version(vault_server: Vault) -> None:
    """T47: no version is left that could come back, and `cas=0` fails for good."""
    async with opened(vault_server) as cipher:
        key, _ = await seal(cipher, 1)
        await cipher.rotate(key)
        await cipher.destroy(key)
        marks = await cipher.destroyed(USER, [chat(1)])
    held = await metadata_of(vault_server, 1)
    assert all(version["destroyed"] for version in held["versions"].values())
    assert set(held["custom_metadata"]) == {"destroyed_at"}
    assert held["custom_metadata"]["destroyed_at"] == marks[chat(1)].isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )
    with vault_server.client() as client, pytest.raises(Exception, match="check-and-set"):
        client.secrets.kv.v2.create_or_update_secret(at(1), {"any": "thing"}, cas=0, mount_point=vault_server.mount)


async def test_t47_forgetting_leaves_nothing(vault_server: Vault) -> None:
    async with opened(vault_server) as cipher:
        for number in (1, 2):
            await seal(cipher, number)
        await cipher.destroy(await cipher.begin(USER, chat(1)))
        for key in (KeyReference(f"vault:{vault_entry.slot_of(USER, chat(number))}") for number in (1, 2)):
            await cipher.forget(key)
    assert await vault_server.entries() == []


async def test_destroying_what_never_was_leaves_the_mark(vault_server: Vault) -> None:
    """After a restore of Vault the key may be missing of a chat that is deleted then."""
    async with opened(vault_server) as cipher:
        await cipher.destroy(KeyReference(f"vault:{vault_entry.slot_of(USER, chat(1))}"))
        assert set(await cipher.destroyed(USER, [chat(1)])) == {chat(1)}
        with pytest.raises(KeyGone):
            await cipher.begin(USER, chat(1))


@pytest.mark.parametrize("reached", ["tombstone", "mark"])
async def test_an_interrupted_destruction_is_finished_by_whoever_looks(vault_server: Vault, reached: str) -> None:
    async with opened(vault_server) as cipher, opened(vault_server) as other:
        key, sealed = await seal(cipher, 1)
        mark = vault_entry.tombstone(vault_entry._time("2026-11-26T12:00:00.000Z"))
        if reached == "tombstone":
            await by_hand(vault_server, 1, mark)
        else:
            await vault_server.write(f"{vault_server.mount}/metadata/{at(1)}", custom_metadata=mark)
        marks = await other.destroyed(USER, [chat(1)])
        assert [each.isoformat() for each in marks.values()] == ["2026-11-26T12:00:00+00:00"]
        held = await metadata_of(vault_server, 1)
        assert all(version["destroyed"] for version in held["versions"].values())
        assert await other.destroyed(USER, [chat(1)]) == marks
        with pytest.raises(KeyGone):
            await other.open(key, field(chat(1)), sealed)


async def test_a_rotation_that_races_with_the_destruction_brings_nothing_back(vault_server: Vault) -> None:
    async with opened(vault_server) as one, opened(vault_server) as two:
        for number in range(20):
            key, _ = await seal(one, number)
            await asyncio.gather(two.destroy(key), one.rotate(key), two.rotate(key), return_exceptions=True)
            with pytest.raises(KeyGone):
                await one.read_key(key)
            held = await metadata_of(vault_server, number)
            assert all(version["destroyed"] for version in held["versions"].values())


async def test_all_versions_destroyed_by_hand_are_a_mark(vault_server: Vault) -> None:
    """Nothing is left that could come back: the chat is as deleted as by the sidecar."""
    async with opened(vault_server) as cipher:
        key, sealed = await seal(cipher, 1)
        await vault_server.write(f"{vault_server.mount}/destroy/{at(1)}", versions=[1])
        cipher.drop_cached()
        with pytest.raises(KeyGone):
            await cipher.open(key, field(chat(1)), sealed)
        [when] = (await cipher.destroyed(USER, [chat(1)])).values()
        assert when.tzinfo is not None


# -- what is not there -------------------------------------------------------------------------------------------------


async def test_s60_an_unknown_reference_makes_no_key(vault_server: Vault) -> None:
    """S60: another deployment's reference, another cipher's, nonsense: nothing is sealed, nothing is written."""
    async with opened(vault_server) as cipher:
        unknown = (f"vault:00/{'0' * 64}", "vault:../../sys/mounts", "local:" + "0" * 64, "vault:", "")
        await unknown_make_no_key(cipher, unknown, vault_server.entries)


async def test_t36_no_text_of_a_client_reaches_a_path(start_vault: StartVault) -> None:
    """T36: hostile chat ids are bytes to a hash; Vault's audit file knows none but the paths of our folder."""
    vault = await start_vault(kept=False)
    await vault.audit()
    hostile = ["../../x", "..", "/etc/x", "a/b", "{}", "{x}*", "a\r\nb", "a\0b", "%2e%2e%2f", "x" * 500, "😀", " "]
    async with opened(vault) as cipher:
        before = len(vault.audited())
        keys = [await cipher.begin(USER, ChatId(each)) for each in hostile]
        await asyncio.gather(*(cipher.read_key(key) for key in keys))
        await asyncio.gather(*(cipher.destroy(key) for key in keys))
        paths = {each["request"]["path"] for each in vault.audited()[before:]}
    assert len(set(keys)) == len(hostile)
    assert paths
    for path in paths:
        assert re.fullmatch(r"secret/(data|metadata|destroy)/sidecar/[0-9a-f]{2}/[0-9a-f]{64}", path)


async def test_a_persons_keys_are_listed_without_reading_the_others(vault_server: Vault) -> None:
    async with opened(vault_server) as cipher:
        mine = {await cipher.begin(USER, chat(number)) for number in range(5)}
        await cipher.begin(OTHER, ChatId("b2b2b2b2_x"))
        assert {key async for key, _, _ in cipher.keys_of(USER)} == mine
        assert len(await listed(cipher)) == 6


async def test_t37_no_repr_shows_a_key(vault_server: Vault) -> None:
    """T37: what a traceback or a log could show of the objects that hold keys and tokens."""
    async with opened(vault_server) as cipher:
        key, _ = await seal(cipher, 1)
        entry = await cipher._living(vault_entry.slot_in(key))
        token = cipher._entries._link.tokens.token
        [secret] = entry.keys.values()
        shown = f"{entry!r} {cipher!r} {token!r} {cipher._held!r}"
        assert secret not in shown
        assert vault_server.root_token not in shown
        assert isinstance(cipher, VaultCipher)
