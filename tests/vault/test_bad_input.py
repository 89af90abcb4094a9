"""Wrong addresses, wrong engines, and what a hand made of an entry: a clear word, and nothing overwritten."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from plugins.encryption.vault import Vault as Plugin
from plugins.encryption.vault_cipher import VaultCipher
from plugins.encryption.vault_entry import Entry
from sidecar import KeyReference, Sealed, Unavailable, Undecryptable
from tests.sealing import TEXT, USER, chat, field, opens, seal
from tests.services.vault.vault import Vault
from tests.vault.world import at, by_hand, data_of, metadata_of, opened, plugin, refused

# -- where it is -------------------------------------------------------------------------------------------------------


async def test_a_wrong_mount_refuses_the_start(vault_server: Vault) -> None:
    assert "no engine at nowhere" in await refused(vault_server, mount="nowhere")


async def test_kv_v1_refuses_the_start(vault_server: Vault) -> None:
    """Its calls look alike, and it would take a key without `cas`."""
    mount = await vault_server.mount_kv(version=1)
    text = await refused(vault_server, mount=mount)
    assert f"the engine at {mount} is no KV v2" in text
    assert f"vault kv enable-versioning {mount}" in text


async def test_an_engine_that_deletes_by_itself_refuses_the_start(vault_server: Vault) -> None:
    mount = await vault_server.mount_kv()
    await vault_server.write(f"{mount}/config", delete_version_after="24h")
    text = await refused(vault_server, mount=mount)
    assert "deletes entries by itself after 24h0m0s" in text
    assert f"vault write {mount}/config delete_version_after=0s" in text


async def test_an_engine_that_keeps_one_version_is_a_finding(vault_server: Vault) -> None:
    mount = await vault_server.mount_kv()
    await vault_server.write(f"{mount}/config", max_versions=1)
    async with plugin(vault_server, mount=mount) as entered:
        assert any("keeps one version" in each.says for each in await entered.findings())
        cipher = await entered.provide_encryption()
        assert isinstance(cipher, VaultCipher)
        key, sealed = await seal(cipher, 1)
        for _ in range(3):
            await cipher.rotate(key)
        assert await opens(cipher, 1, key, sealed)


async def test_an_engine_that_is_exchanged_while_it_serves_gets_no_key(vault_server: Vault) -> None:
    """KV v1 under the same name confirms nothing: nothing is sealed under what it took."""
    mount = await vault_server.mount_kv()
    async with opened(vault_server, mount=mount) as cipher:
        key, sealed = await seal(cipher, 1)
        await vault_server.remove(f"sys/mounts/{mount}")
        cipher.drop_cached()
        with pytest.raises(Unavailable, match=f"no engine at {mount}"):
            await cipher.open(key, field(chat(1)), sealed)
        with pytest.raises(Unavailable, match=f"no engine at {mount}"):
            await cipher.begin(USER, chat(2))
        await vault_server.write(f"sys/mounts/{mount}", type="kv", options={"version": "1"})
        with pytest.raises(Unavailable, match="no KV v2 engine"):
            await cipher.begin(USER, chat(3))
        with pytest.raises(Undecryptable):
            await cipher.open(key, field(chat(1)), sealed)


async def test_an_engine_that_begins_to_delete_by_itself_gets_no_new_chat(vault_server: Vault) -> None:
    mount = await vault_server.mount_kv()
    async with opened(vault_server, mount=mount) as cipher:
        await vault_server.write(f"{mount}/config", delete_version_after="24h")
        with pytest.raises(Unavailable, match="delete_version_after"):
            await cipher.begin(USER, chat(1))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "vault.example.com:8200"}, "write https://vault.example.com:8200"),
        ({"url": "https://user:word@vault"}, "tokens belong into auth"),
        ({"url": "http://vault:99999"}, "write https"),
        ({"url": "file:///etc/passwd"}, "write https"),
        ({"mount": "/secret/"}, "match pattern"),
        ({"path": "a//b"}, "match pattern"),
        ({"path": "../x/"}, "match pattern"),
        ({"auth": {}}, "exactly one of token, approle, kubernetes"),
        ({"auth": {"token": {"value": "a"}, "kubernetes": {"role": "b"}}}, "exactly one of"),
        ({"auth": {"token": {}}}, "exactly one of value, file"),
        ({"auth": {"approle": {"role_id": "r", "secret_id": "a", "secret_id_file": "b"}}}, "exactly one of"),
        ({"auth": {"approle": {"secret_id": "a"}}}, "Field required"),
        ({"timeout": 2}, "unit"),
        ({"mode": "both"}, "'kv' or 'transit'"),
        ({"mont": "secret"}, "Extra inputs"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_what_to_write(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Plugin.Options.model_validate({"auth": {"token": {"value": "a-token-of-a-test"}}} | options)
    assert told in str(caught.value)
    assert "a-token-of-a-test" not in str(caught.value)


# -- somebody's hand ---------------------------------------------------------------------------------------------------


def _changed(**new: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: data | new


def _key(data: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """With another key, and what the sidecar would have written beside it: only Vault's own version tells."""
    return Entry(data["user"], data["chat"], {1: base64.b64encode(secret).decode()}).data()


HANDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a key of 31 bytes": lambda data: _key(data, b"k" * 31),
    "a key of 33 bytes": lambda data: _key(data, b"k" * 33),
    "no key": _changed(keys={}),
    "keys that are no map": _changed(keys=["a"]),
    "a key that is no text": _changed(keys={"1": 7}),
    "a key that is no base64": lambda data: Entry(data["user"], data["chat"], {1: "no base64!"}).data(),
    "version 0": lambda data: data | {"keys": {"0": data["keys"]["1"]}},
    "a version that is no number": lambda data: data | {"keys": {"one": data["keys"]["1"]}},
    "a version higher than Vault's": lambda data: Entry(data["user"], data["chat"], {9: data["keys"]["1"]}).data(),
    "another format": _changed(format="2"),
    "a slip in the key": lambda data: data | {"keys": {"1": "A" + data["keys"]["1"][1:]}},
    "another person": _changed(user="b2" * 32),
    "another chat's entry": lambda data: Entry(data["user"], chat(2), {1: data["keys"]["1"]}).data(),
    "somebody's own secret": lambda data: {"password": "hunter2"},
    "nothing": lambda data: {},
}


@pytest.mark.parametrize("hand", HANDS.values(), ids=HANDS.keys())
async def test_what_a_hand_made_of_an_entry_is_undecryptable_and_stays(
    vault_server: Vault, hand: Callable[[dict[str, Any]], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """It opens nothing, seals nothing, is never overwritten; the version before it brings everything back."""
    async with opened(vault_server) as cipher:
        key, sealed = await seal(cipher, 1)
        data = await data_of(vault_server, 1)
        if "A" + data["keys"]["1"][1:] == data["keys"]["1"]:
            pytest.skip("not promised: this key begins as the slip does")
        edited = hand(data)
        await by_hand(vault_server, 1, edited)
        cipher.drop_cached()
        await _is_left_alone(cipher, key, sealed)
        assert await cipher.destroyed(USER, [chat(1)]) == {}
        assert await cipher.begun(USER, chat(1))
        assert [each async for each in cipher.keys_of(USER)] == []
        assert await data_of(vault_server, 1) == edited
        # As the error says.
        await by_hand(vault_server, 1, data)
        assert await opens(cipher, 1, key, sealed)
        await cipher.rotate(key)
        assert await opens(cipher, 1, key, sealed)


async def _is_left_alone(cipher: VaultCipher, key: KeyReference, sealed: Sealed) -> None:
    where = f"data/{at(1)}"
    with pytest.raises(Undecryptable, match=where) as caught:
        await cipher.open(key, field(chat(1)), sealed)
    assert "vault kv rollback" in str(caught.value)
    with pytest.raises(Unavailable):
        await cipher.seal(key, field(chat(1)), TEXT)
    with pytest.raises(Unavailable, match=where):
        await cipher.begin(USER, chat(1))
    with pytest.raises(Undecryptable):
        await cipher.rotate(key)


async def test_an_entry_that_was_deleted_by_hand_comes_back_by_undelete(vault_server: Vault) -> None:
    async with opened(vault_server) as cipher:
        key, sealed = await seal(cipher, 1)
        with vault_server.client() as client:
            client.secrets.kv.v2.delete_latest_version_of_secret(at(1), mount_point=vault_server.mount)
        cipher.drop_cached()
        await _is_left_alone(cipher, key, sealed)
        assert await cipher.destroyed(USER, [chat(1)]) == {}
        await vault_server.write(f"{vault_server.mount}/undelete/{at(1)}", versions=[1])
        assert await opens(cipher, 1, key, sealed)


async def test_a_newest_version_that_was_destroyed_by_hand_is_not_the_end_of_the_older_ones(
    vault_server: Vault,
) -> None:
    async with opened(vault_server) as cipher:
        key, sealed = await seal(cipher, 1)
        data = await data_of(vault_server, 1)
        await cipher.rotate(key)
        await vault_server.write(f"{vault_server.mount}/destroy/{at(1)}", versions=[2])
        cipher.drop_cached()
        await _is_left_alone(cipher, key, sealed)
        await by_hand(vault_server, 1, data)
        assert await opens(cipher, 1, key, sealed)


async def test_t33_an_entry_that_was_put_back_gives_no_version_twice(vault_server: Vault) -> None:
    """T33: what was sealed under the version that is lost stays closed, and the next one has another number."""
    async with opened(vault_server) as cipher:
        key, first = await seal(cipher, 1)
        data = await data_of(vault_server, 1)
        await cipher.rotate(key)
        lost = await cipher.seal(key, field(chat(1)), TEXT)
        await by_hand(vault_server, 1, data)
        cipher.drop_cached()
        assert await opens(cipher, 1, key, first)
        with pytest.raises(Undecryptable):
            await cipher.open(key, field(chat(1)), lost)
        await cipher.rotate(key)
        assert sorted(await cipher.read_key(key)) == [1, 4]
        with pytest.raises(Undecryptable):
            await cipher.open(key, field(chat(1)), lost)


async def test_a_damaged_entry_can_be_destroyed_and_forgotten(vault_server: Vault) -> None:
    async with opened(vault_server) as cipher:
        key, _ = await seal(cipher, 1)
        await by_hand(vault_server, 1, {"password": "hunter2"})
        await cipher.destroy(key)
        assert set(await cipher.destroyed(USER, [chat(1)])) == {chat(1)}
        assert all(version["destroyed"] for version in (await metadata_of(vault_server, 1))["versions"].values())
        await cipher.forget(key)
        assert await vault_server.entries() == []


async def test_metadata_alone_is_no_key_and_in_nobodys_way(vault_server: Vault) -> None:
    async with opened(vault_server) as cipher:
        await vault_server.write(f"{vault_server.mount}/metadata/{at(1)}", custom_metadata={"note": "by hand"})
        assert await cipher.destroyed(USER, [chat(1)]) == {}
        assert await opens(cipher, 1, *await seal(cipher, 1))


async def test_folders_and_entries_of_others_in_our_folder_are_passed_over(vault_server: Vault) -> None:
    async with opened(vault_server) as cipher:
        key, _ = await seal(cipher, 1)
        for path in ("sidecar/note", "sidecar/00/note", "sidecar/notes/a", f"sidecar/00/{'0' * 64}"):
            await vault_server.write(f"{vault_server.mount}/data/{path}", data={"a": "b"})
        every = cipher.keys()
        assert [each async for each in every] == [(key, USER, chat(1))]
        assert len(await asyncio.gather(*(cipher.begin(USER, chat(number)) for number in range(2, 5)))) == 3
