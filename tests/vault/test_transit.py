"""Transit mode: keys wrapped by a key that never leaves Vault."""

from __future__ import annotations

import asyncio

import pytest

from plugins.encryption.vault import Vault as Plugin
from plugins.encryption.vault_entry import Entry
from sidecar import KeyReference, Unavailable, Undecryptable
from sidecar.envelope import key_version_of
from tests.sealing import TEXT, USER, chat, field, opens, seal
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import Vault
from tests.vault.world import POLICY, by_hand, data_of, opened, plugin, refused, with_transit


async def test_neither_entry_nor_reference_holds_a_key_in_the_clear(vault_server: Vault) -> None:
    """The reference is the wrapped key, with the place of its mark before it."""
    async with opened(vault_server, **await with_transit(vault_server)) as cipher:
        key, _ = await seal(cipher, 1)
        await cipher.rotate(key)
        data = await data_of(vault_server, 1)
        assert all(each.startswith("vault:v1:") for each in data["keys"].values())
        assert key == f"{key[: len('vault:00/') + 64]}:{data['begun']}"
        assert len(key) <= 255


async def test_drafts_ask_transit_nothing_and_cold_reads_ask_in_batches(start_vault: StartVault) -> None:
    """Transit never per draft: 300 keys of a cold process are unwrapped in a few calls, 200 drafts in none."""
    vault = await start_vault(kept=False)
    await vault.audit()
    options = await with_transit(vault)
    transit = options["transit"]["mount"]

    def asked(what: str) -> int:
        path = f"{transit}/{what}/sidecar"
        return sum(1 for each in vault.audited() if each["type"] == "request" and each["request"]["path"] == path)

    chats = [chat(number) for number in range(300)]
    async with opened(vault, **options) as cipher:
        keys = await asyncio.gather(*(cipher.begin(USER, each) for each in chats))
        assert asked("encrypt") <= 30
        for _ in range(200):
            await cipher.seal(keys[0], field(chats[0]), TEXT)
        assert asked("decrypt") == 0
    async with opened(vault, **options) as cold:
        assert await cold.destroyed(USER, chats) == {}
        for key, each in zip(keys, chats, strict=True):
            await cold.seal(key, field(each), TEXT)
        assert cold.misses == 0  # the look at the marks had brought the keys
        assert asked("decrypt") == 3


async def test_s63_a_rotation_rewraps_the_old_versions_by_the_newest_transit_key(vault_server: Vault) -> None:
    """S63: afterwards the transit key's first version can be withdrawn, and everything still opens."""
    options = await with_transit(vault_server)
    mount = options["transit"]["mount"]
    async with opened(vault_server, **options) as cipher:
        key, old = await seal(cipher, 1)
        await vault_server.write(f"{mount}/keys/sidecar/rotate")
        await cipher.rotate(key)
        new = await cipher.seal(key, field(chat(1)), TEXT)
        assert key_version_of(new) == 2
        assert all(each.startswith("vault:v2:") for each in (await data_of(vault_server, 1))["keys"].values())
        await vault_server.write(f"{mount}/keys/sidecar/config", min_decryption_version=2)
        cipher.drop_cached()
        assert await opens(cipher, 1, key, old)
        assert await opens(cipher, 1, key, new)
        assert await cipher.begin(USER, chat(1)) == key


async def test_a_wrapped_key_opens_in_no_other_chats_entry(vault_server: Vault) -> None:
    options = await with_transit(vault_server)
    async with opened(vault_server, **options) as cipher:
        key, sealed = await seal(cipher, 1)
        await seal(cipher, 2)
        other = await data_of(vault_server, 2)
        forged = Entry(USER, chat(1), {1: other["keys"]["1"]}, begun=other["begun"])
        await by_hand(vault_server, 1, forged.data())
        cipher.drop_cached()
        with pytest.raises(Undecryptable, match="does not unwrap"):
            await cipher.open(key, field(chat(1)), sealed)
        with pytest.raises(Unavailable):
            await cipher.seal(key, field(chat(1)), TEXT)


async def test_one_that_does_not_unwrap_fails_alone(vault_server: Vault) -> None:
    async with opened(vault_server, **await with_transit(vault_server)) as cipher:
        sealed = [await seal(cipher, number) for number in range(20)]
        await by_hand(vault_server, 7, Entry(USER, chat(7), {1: "vault:v1:AAAA"}).data())
        cipher.drop_cached()
        opened_ = await asyncio.gather(
            *(opens(cipher, number, *each) for number, each in enumerate(sealed)), return_exceptions=True
        )
        assert [number for number, each in enumerate(opened_) if each is not True] == [7]
        assert isinstance(opened_[7], Undecryptable)


async def test_keys_of_before_the_mode_are_read_and_wrapped_by_the_next_rotation(vault_server: Vault) -> None:
    options = await with_transit(vault_server)
    async with opened(vault_server) as cipher:
        key, sealed = await seal(cipher, 1)
    async with opened(vault_server, **options) as cipher:
        assert await opens(cipher, 1, key, sealed)
        await cipher.rotate(key)
        assert all(each.startswith("vault:v1:") for each in (await data_of(vault_server, 1))["keys"].values())
        assert await cipher.begin(USER, chat(1)) == key
        newer = await cipher.seal(key, field(chat(1)), TEXT)
    # And back again.
    async with opened(vault_server, transit=options["transit"]) as cipher:
        assert await opens(cipher, 1, key, sealed)
        assert await opens(cipher, 1, key, newer)
        await cipher.rotate(key)
        assert not any(each.startswith("vault:") for each in (await data_of(vault_server, 1))["keys"].values())
        assert await opens(cipher, 1, key, sealed)


# -- bootstrap ---------------------------------------------------------------------------------------------------------


def transit_plugin(vault: Vault, mount: str, **options: object) -> Plugin:
    return plugin(vault, mode="transit", transit={"mount": mount}, **options)


async def test_bootstrap_makes_the_transit_key_once(vault_server: Vault) -> None:
    mount = await vault_server.mount_transit()
    fresh = transit_plugin(vault_server, mount)
    assert await fresh.bootstrap(dry_run=True) == [f"make the transit key sidecar at {mount}"]
    assert "run sidecar bootstrap" in await refused(vault_server, mode="transit", transit={"mount": mount})
    assert await fresh.bootstrap(dry_run=False) == [f"made the transit key sidecar at {mount}"]
    assert await fresh.bootstrap(dry_run=False) == []
    async with opened(vault_server, mode="transit", transit={"mount": mount}) as cipher:
        assert await opens(cipher, 1, *await seal(cipher, 1))
    told = await vault_server.read(f"{mount}/keys/sidecar")
    assert told is not None
    assert (told["data"]["derived"], told["data"]["exportable"], told["data"]["type"]) == (True, False, "aes256-gcm96")
    assert await plugin(vault_server).bootstrap(dry_run=False) == []


async def test_bootstrap_says_what_to_do_by_hand(vault_server: Vault) -> None:
    mount = await vault_server.mount_transit()
    with pytest.raises(Unavailable, match="vault secrets enable -path=nowhere transit"):
        await transit_plugin(vault_server, "nowhere").bootstrap(dry_run=False)
    with pytest.raises(Unavailable, match="no transit engine"):
        await transit_plugin(vault_server, vault_server.mount).bootstrap(dry_run=False)
    token = await vault_server.token(await vault_server.policy(POLICY.replace("transit/", f"{mount}/")))
    with pytest.raises(Unavailable, match=f"vault write -f {mount}/keys/sidecar"):
        await transit_plugin(vault_server, mount, auth={"token": {"value": token}}).bootstrap(dry_run=False)


async def test_a_missing_transit_key_is_not_made_by_a_draft(vault_server: Vault) -> None:
    """The policy lets the sidecar encrypt, and not make the key by encrypting, as root's token would."""
    options = await with_transit(vault_server)
    mount = options["transit"]["mount"]
    token = await vault_server.token(await vault_server.policy(POLICY.replace("transit/", f"{mount}/")))
    async with opened(vault_server, auth={"token": {"value": token}}, **options) as cipher:
        await vault_server.write(f"{mount}/keys/sidecar/config", deletion_allowed=True)
        await vault_server.remove(f"{mount}/keys/sidecar")
        with pytest.raises(Unavailable):
            await cipher.begin(USER, chat(1))
        assert await vault_server.names(f"{mount}/keys") == []
        assert await vault_server.entries() == []
    with pytest.raises(Undecryptable):
        await cipher.read_key(KeyReference("vault:v1:AAAA"))
