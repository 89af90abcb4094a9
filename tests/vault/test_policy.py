"""The policy that ships: with it everything works, and nothing outside of the sidecar's folder does (threats T40)."""

from __future__ import annotations

import re
from typing import Any

import hvac
import pytest

from plugins.encryption.vault_entry import slot_of
from sidecar import KeyGone, KeyReference
from tests.sealing import TEXT, USER, chat, field, listed, opens, seal
from tests.services.vault.vault import Vault
from tests.vault.world import POLICY, at, opened, plugin, refused, with_transit


async def limited(vault: Vault, mode: str = "kv") -> dict[str, Any]:
    """Options that sign in by an AppRole that has the policy of config/vault/ and no other, `default` neither."""
    options: dict[str, Any] = await with_transit(vault) if mode == "transit" else {}
    rules = POLICY.replace("transit/", f"{options['transit']['mount']}/") if options else POLICY
    rules = rules.replace('"secret/', f'"{vault.mount}/')
    role = await vault.approle(await vault.policy(rules), token_no_default_policy=True)
    return options | {"auth": {"approle": {"role_id": role.role_id, "secret_id": role.secret_id, "mount": role.mount}}}


@pytest.mark.parametrize("mode", ["kv", "transit"])
async def test_with_the_policy_that_ships_everything_works(vault_server: Vault, mode: str) -> None:
    options = await limited(vault_server, mode)
    async with plugin(vault_server, **options) as entered:
        assert await entered.findings() == []
        assert entered.state()["ok"] is True
    async with opened(vault_server, **options) as cipher:
        key, sealed = await seal(cipher, 1)
        assert (await seal(cipher, 1))[0] == key
        await cipher.rotate(key)
        cipher.drop_cached()
        assert await opens(cipher, 1, key, sealed)
        assert await cipher.begun(USER, chat(1))
        assert not await cipher.begun(USER, chat(2))
        assert [each for _, _, each in await listed(cipher)] == [chat(1)]
        await cipher.destroy(key)
        assert set(await cipher.destroyed(USER, [chat(1), chat(2)])) == {chat(1)}
        with pytest.raises(KeyGone):
            await cipher.begin(USER, chat(1))
        await cipher.destroy(KeyReference(f"vault:{slot_of(USER, chat(3))}"))
        await cipher.forget(key)
        assert not await cipher.begun(USER, chat(1))
        again, sealed = await seal(cipher, 1)
        assert await cipher.open(again, field(chat(1)), sealed) == TEXT


async def test_t40_nothing_outside_of_the_folder_can_be_done_with_it(vault_server: Vault) -> None:
    """T40: the token of the sidecar, in the hands of somebody else."""
    options = await limited(vault_server)
    mount = vault_server.mount
    await vault_server.write(f"{mount}/data/other/secret", data={"word": "private"})
    await vault_server.write(f"{mount}/data/sidecar-of-another/x", data={"word": "private"})
    async with plugin(vault_server, **options) as entered:
        cipher = await entered.provide_encryption()
        await cipher.begin(USER, chat(1))
        link = entered._link
        assert link is not None
        assert link.tokens.token is not None
        with vault_server.client(link.tokens.token.value) as client:
            kv = client.secrets.kv.v2
            tries: dict[str, Any] = {
                "read": lambda: client.read(f"{mount}/data/other/secret"),
                "read a neighbour": lambda: client.read(f"{mount}/data/sidecar-of-another/x"),
                "write": lambda: kv.create_or_update_secret("other/new", {"a": "b"}, mount_point=mount),
                "delete": lambda: kv.delete_metadata_and_all_versions("other/secret", mount_point=mount),
                "list all": lambda: kv.list_secrets("", mount_point=mount),
                "soft delete of ours": lambda: kv.delete_latest_version_of_secret(at(1), mount_point=mount),
                "undelete of ours": lambda: kv.undelete_secret_versions(at(1), [1], mount_point=mount),
                "engine config": lambda: kv.configure(max_versions=1, mount_point=mount),
                "engines": lambda: client.sys.enable_secrets_engine("kv", path="mine"),
                "policies": lambda: client.sys.create_or_update_policy("mine", 'path "*" {capabilities=["sudo"]}'),
                "read a policy": lambda: client.sys.read_policy("root"),
                "tokens": lambda: client.auth.token.create(policies=["root"]),
                "seal": client.sys.seal,
                "audit": client.sys.list_enabled_audit_devices,
                "another mount": lambda: client.read("cubbyhole/x"),
            }
            for attempt in tries.values():
                with pytest.raises(hvac.exceptions.Forbidden):
                    attempt()


async def test_a_policy_that_is_too_narrow_refuses_the_start_and_names_what_lacks(vault_server: Vault) -> None:
    without = re.sub(r'path "secret/destroy/[^}]*}', "", POLICY)
    token = await vault_server.token(await vault_server.policy(without))
    text = await refused(vault_server, auth={"token": {"value": token}})
    assert f"lacks update on {vault_server.mount}/destroy/sidecar/" in text
    assert "config/vault/policy.hcl" in text


async def test_a_policy_that_is_too_wide_is_a_finding(vault_server: Vault) -> None:
    wide = f'{POLICY}\npath "{vault_server.mount}/*" {{ capabilities = ["create", "read", "update", "list"] }}'
    token = await vault_server.token(await vault_server.policy(wide), period="1h")
    async with plugin(vault_server, auth={"token": {"value": token}}) as entered:
        [finding] = await entered.findings()
    assert "allows more than the sidecar needs" in finding.says
    assert f"{vault_server.mount}/data/sidecar-of-another" in finding.says


async def test_a_root_token_is_a_finding(vault_server: Vault) -> None:
    async with plugin(vault_server) as entered:
        assert any("one of root" in each.says for each in await entered.findings())


async def test_a_token_that_ends_and_cannot_be_renewed_is_a_finding(vault_server: Vault) -> None:
    token = await vault_server.token(await vault_server.policy(POLICY), ttl="2h", renewable=False)
    async with plugin(vault_server, auth={"token": {"value": token}}) as entered:
        assert any("ends in 2.0 hours and cannot be renewed" in each.says for each in await entered.findings())
        assert 7100 < entered.state()["token_seconds_left"] <= 7200
