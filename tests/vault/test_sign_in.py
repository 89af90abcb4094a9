"""Signing in to a real Vault, staying signed in, and being turned away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.encryption.vault import Vault as Plugin
from plugins.encryption.vault_cipher import VaultCipher
from plugins.encryption.vault_tokens import Token
from sidecar import Unavailable, Undecryptable
from tests.integration.world import until
from tests.sealing import TEXT, USER, chat, field, opens, seal
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import AppRole, Vault
from tests.vault.world import POLICY, opened, plugin, refused

Granted = dict[str, Any]


def by_secret(role: AppRole) -> Granted:
    return {"approle": {"role_id": role.role_id, "secret_id": role.secret_id, "mount": role.mount}}


def by_file(role: AppRole, name: str, path: Path) -> Granted:
    return {"approle": {"role_id": role.role_id, name: str(path), "mount": role.mount}}


async def role_of(vault: Vault, **options: Any) -> AppRole:
    return await vault.approle(await vault.policy(POLICY), **options)


def token_of(entered: Plugin) -> Token:
    assert entered._link is not None
    token = entered._link.tokens.token
    assert token is not None
    return token


async def cipher_of(entered: Plugin) -> VaultCipher:
    cipher = await entered.provide_encryption()
    assert isinstance(cipher, VaultCipher)
    return cipher


def logins(vault: Any) -> int:
    """How often somebody signed in, by the audit file."""
    return sum(
        1
        for each in vault.audited()
        if each["type"] == "response" and each["request"]["path"].endswith("/login") and "error" not in each
    )


# -- ways in -----------------------------------------------------------------------------------------------------------


async def test_approle_with_the_secret_id_in_the_configuration(vault_server: Vault) -> None:
    role = await role_of(vault_server)
    async with opened(vault_server, auth=by_secret(role)) as cipher:
        assert await opens(cipher, 1, *await seal(cipher, 1))


async def test_a_secret_id_file_is_read_at_each_sign_in(vault_server: Vault, tmp_path: Path) -> None:
    """Whoever exchanges secrets exchanges the file; nobody restarts the sidecar for it."""
    role, file = await role_of(vault_server), tmp_path / "secret-id"
    file.write_text(f"{role.secret_id}\n")
    async with plugin(vault_server, auth=by_file(role, "secret_id_file", file)) as entered:
        cipher, first = await cipher_of(entered), token_of(entered)
        await seal(cipher, 1)
        file.write_text(await vault_server.secret_id(role.mount, role.name))
        await vault_server.write(f"auth/{role.mount}/role/{role.name}/secret-id/destroy", secret_id=role.secret_id)
        await vault_server.revoke(first.value)
        await seal(cipher, 2)
        assert token_of(entered).value != first.value


async def test_a_wrapped_secret_id_is_unwrapped_once_and_kept(vault_server: Vault, tmp_path: Path) -> None:
    """Two wrapping tokens for two processes; a third finds none, and is told what that may mean."""
    role, file = await role_of(vault_server), tmp_path / "wrapped"
    wrapped = [await vault_server.secret_id(role.mount, role.name, wrap_ttl="60s") for _ in range(2)]
    file.write_text("\n".join(wrapped))
    auth = by_file(role, "wrapped_secret_id_file", file)
    async with plugin(vault_server, auth=auth) as one, plugin(vault_server, auth=auth) as two:
        for number, entered in enumerate((one, two)):
            await seal(await cipher_of(entered), number)
        first = token_of(one)
        await vault_server.revoke(first.value)
        await seal(await cipher_of(one), 3)
        assert token_of(one).value != first.value
    text = await refused(vault_server, auth=auth)
    assert "somebody else has the secret id" in text
    assert not any(each in text for each in wrapped)


async def test_a_wrapping_token_of_something_else_is_not_used(vault_server: Vault, tmp_path: Path) -> None:
    """Somebody put another one in its place, such as one that wraps a secret of their own making."""
    role, file = await role_of(vault_server), tmp_path / "wrapped"
    with vault_server.client() as client:
        made = client.sys.wrap({"secret_id": role.secret_id}, ttl=60)
    file.write_text(made["wrap_info"]["token"])
    assert "wraps something else" in await refused(vault_server, auth=by_file(role, "wrapped_secret_id_file", file))


async def test_a_token_file_is_read_again_when_the_token_has_ended(vault_server: Vault, tmp_path: Path) -> None:
    """As an agent exchanges it."""
    policy, file = await vault_server.policy(POLICY), tmp_path / "token"
    first, second = await vault_server.token(policy), await vault_server.token(policy)
    file.write_text(first)
    async with opened(vault_server, auth={"token": {"file": str(file)}}) as cipher:
        await seal(cipher, 1)
        file.write_text(second)
        await vault_server.revoke(first)
        await seal(cipher, 2)


async def test_the_token_is_given_back_at_the_end_if_it_was_ours(vault_server: Vault) -> None:
    role, given = await role_of(vault_server), await vault_server.token(await vault_server.policy(POLICY))
    async with plugin(vault_server, auth=by_secret(role)) as entered:
        own = token_of(entered).value
    async with opened(vault_server, auth={"token": {"value": given}}):
        pass
    with vault_server.client(own) as client, pytest.raises(Exception, match="permission denied"):
        client.auth.token.lookup_self()
    with vault_server.client(given) as client:
        assert client.auth.token.lookup_self()["data"]["id"] == given


# -- turned away at the start ------------------------------------------------------------------------------------------


async def test_a_sign_in_that_is_denied_refuses_the_start(vault_server: Vault, tmp_path: Path) -> None:
    """Exit 3: it says what to mend, and repeats no secret."""
    role = await role_of(vault_server)
    wrong = "11111111-2222-3333-4444-555555555555"
    text = await refused(vault_server, auth=by_secret(AppRole(role.mount, role.name, role.role_id, wrong)))
    assert "refuses this AppRole" in text
    assert wrong not in text
    assert "refuses this AppRole" in await refused(
        vault_server, auth=by_secret(AppRole("nowhere", role.name, role.role_id, role.secret_id))
    )
    text = await refused(vault_server, auth={"token": {"value": "hvs.wrong"}})
    assert "refuses this token" in text
    assert "hvs.wrong" not in text
    assert "cannot be read" in await refused(vault_server, auth={"token": {"file": str(tmp_path / "none")}})
    assert "cannot be read" in await refused(vault_server, auth=by_file(role, "secret_id_file", tmp_path / "none"))
    (tmp_path / "empty").write_text("\n")
    assert "holds no secret" in await refused(vault_server, auth=by_file(role, "secret_id_file", tmp_path / "empty"))
    (tmp_path / "odd").write_text("a\r\nX-Vault-Token: b")
    assert "holds no secret" in await refused(vault_server, auth={"token": {"file": str(tmp_path / "odd")}})


# -- staying signed in -------------------------------------------------------------------------------------------------


async def test_f20_a_token_is_renewed_at_two_thirds_of_its_life(start_vault: StartVault) -> None:
    """F20: 3 s of life, and after 7 s the same token is still good: nobody signed in again."""
    vault = await start_vault(kept=False)
    await vault.audit()
    role = await role_of(vault, token_ttl="3s")
    async with plugin(vault, auth=by_secret(role)) as entered:
        cipher, first = await cipher_of(entered), token_of(entered).value
        for number in range(14):
            await seal(cipher, number)
            await asyncio.sleep(0.5)
        assert token_of(entered).value == first
    assert logins(vault) == 1
    assert any(each["request"]["path"] == "auth/token/renew-self" for each in vault.audited())


async def test_f20_a_token_at_the_end_of_its_longest_life_is_replaced_before_it_ends(start_vault: StartVault) -> None:
    """F20: no call meets a token that has ended: none is denied."""
    vault = await start_vault(kept=False)
    await vault.audit()
    role = await role_of(vault, token_ttl="2s", token_max_ttl="4s")
    async with plugin(vault, auth=by_secret(role)) as entered:
        cipher, first = await cipher_of(entered), token_of(entered).value
        for number in range(14):
            await seal(cipher, number)
            await asyncio.sleep(0.4)
        assert token_of(entered).value != first
    assert 2 <= logins(vault) <= 5
    assert not [each for each in vault.audited() if "permission denied" in each.get("error", "")], "a call was denied"


async def test_f20_a_batch_token_that_cannot_be_renewed_is_replaced(vault_server: Vault) -> None:
    role = await role_of(vault_server, token_ttl="2s", token_type="batch")
    async with plugin(vault_server, auth=by_secret(role)) as entered:
        cipher, first = await cipher_of(entered), token_of(entered).value
        await until(lambda: token_of(entered).value != first)
        await seal(cipher, 1)


async def test_f20_a_revoked_token_is_replaced_once_for_all_who_wait(start_vault: StartVault) -> None:
    """F20: 30 calls meet it at the same moment, one sign-in helps them all, and none fails."""
    vault = await start_vault(kept=False)
    await vault.audit()
    role = await role_of(vault)
    async with plugin(vault, auth=by_secret(role)) as entered:
        cipher = await cipher_of(entered)
        await seal(cipher, "first")
        await vault.revoke(token_of(entered).value)
        await asyncio.gather(*(seal(cipher, number) for number in range(30)))
    assert logins(vault) == 2


async def test_a_given_token_that_was_revoked_is_said_to_be_and_asked_for_seldom(start_vault: StartVault) -> None:
    vault = await start_vault(kept=False)
    await vault.audit()
    given = await vault.token(await vault.policy(POLICY))
    async with plugin(vault, auth={"token": {"value": given}}) as entered:
        cipher = await cipher_of(entered)
        key, sealed = await seal(cipher, 1)
        await vault.revoke(given)
        before = len(vault.audited())
        for number in range(2, 40):
            with pytest.raises(Unavailable, match="refuses this token") as caught:
                await cipher.begin(chat(number)[:8], chat(number))  # type: ignore[arg-type]
            assert given not in str(caught.value)
        assert await opens(cipher, 1, key, sealed)  # its key is in memory
        assert len(vault.audited()) - before < 20
        state = entered.state()
        assert state["ok"] is False
        assert "refuses this token" in state["reason"]


async def test_f21_a_path_that_the_policy_denies_stops_no_other_and_signs_nobody_in(start_vault: StartVault) -> None:
    """F21: policy changed live. One chat is unreadable, and not written over; the others go on. All of them: `unavailable`."""
    vault = await start_vault(kept=False)
    await vault.audit()
    name = await vault.policy(POLICY)
    role = await vault.approle(name)
    async with plugin(vault, auth=by_secret(role)) as entered:
        cipher = await cipher_of(entered)
        key, sealed = await seal(cipher, 1)
        denied = f'path "secret/data/{_at(key)}" {{ capabilities = ["deny"] }}'
        before = len(vault.audited())
        await vault.policy(f"{POLICY}\n{denied}", name)
        cipher.drop_cached()
        for _ in range(5):
            with pytest.raises(Undecryptable, match="policy denies secret/data/sidecar"):
                await cipher.open(key, field(chat(1)), sealed)
            with pytest.raises(Unavailable):
                await cipher.seal(key, field(chat(1)), TEXT)
            assert await cipher.destroyed(USER, [chat(1), chat(2)]) == {}
            other, text = await seal(cipher, 2)
            assert await opens(cipher, 2, other, text)
        asked = [each["request"]["path"] for each in vault.audited()[before:] if each["type"] == "request"]
        assert asked.count(f"secret/data/{_at(key)}") <= 2, "it was asked for again and again"
        await vault.policy('path "auth/token/lookup-self" { capabilities = ["read"] }', name)
        cipher.drop_cached()
        with pytest.raises(Unavailable, match="policy denies secret/data/sidecar") as caught:
            await cipher.read_key(other)
        assert caught.value.retry_after == 5.0
        await vault.policy(POLICY, name)

        async def allowed() -> bool:
            try:
                return await cipher.open(key, field(chat(1)), sealed) == TEXT
            except Undecryptable:
                return False

        await until(allowed)
        assert entered.state()["ok"] is True
    assert logins(vault) == 1


def _at(key: str) -> str:
    return f"sidecar/{key.removeprefix('vault:')}"


async def test_a_role_that_may_not_look_itself_up_signs_in_seldom(start_vault: StartVault) -> None:
    """Nothing tells its end from a denial: it signs in now and again, and not at each denial."""
    vault = await start_vault(kept=False)
    await vault.audit()
    name = await vault.policy({"secret/data/sidecar/*": ["create", "read", "update"], "secret/*": ["list"]})
    role = await vault.approle(name, token_no_default_policy=True)
    async with plugin(vault, auth=by_secret(role)) as entered:
        cipher = await cipher_of(entered)
        key, _ = await seal(cipher, 1)
        for _ in range(10):
            with pytest.raises(Unavailable, match="policy denies"):
                await cipher.destroy(key)
    assert logins(vault) == 1


# -- late --------------------------------------------------------------------------------------------------------------


async def test_f16_a_vault_that_is_down_at_the_start_is_waited_for(start_vault: StartVault) -> None:
    """F16: the process serves, says what is missing, and uses Vault once it is there."""
    vault = await start_vault()
    await vault.stop()
    async with plugin(vault) as entered:
        cipher = await cipher_of(entered)
        state = entered.state()
        assert state["ok"] is False
        assert "refuses connections" in state["reason"]
        with pytest.raises(Unavailable, match="refuses connections"):
            await seal(cipher, 1)
        await vault.start()
        await until(_ready(entered))
        assert await opens(cipher, 1, *await seal(cipher, 1))


async def test_f18_a_sealed_vault_at_the_start_is_waited_for(start_vault: StartVault) -> None:
    vault = await start_vault()
    await vault.seal()
    async with plugin(vault) as entered:
        assert "sealed" in entered.state()["reason"]
        await vault.unseal()
        await until(_ready(entered))


async def test_a_vault_that_comes_up_and_cannot_be_used_is_not_used(start_vault: StartVault) -> None:
    """The process serves already, so that it does not end: it says what to mend, and makes no key until then."""
    vault = await start_vault()
    await vault.write("secret/config", delete_version_after="24h")
    await vault.stop()
    async with plugin(vault) as entered:
        cipher = await cipher_of(entered)
        await vault.start()
        await until(lambda: "deletes entries by itself" in entered.state().get("reason", ""))
        with pytest.raises(Unavailable, match="deletes entries by itself"):
            await seal(cipher, 1)
        await vault.write("secret/config", delete_version_after="0s")
        await until(_ready(entered))
        assert await opens(cipher, 1, *await seal(cipher, 1))


def _ready(entered: Plugin) -> Callable[[], bool]:
    return lambda: entered.state()["ok"] is True
