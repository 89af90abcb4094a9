"""What `doctor` says of a Vault that had better be mended. What refuses the start is in test_bad_input.py and test_policy.py."""

from __future__ import annotations

import time
from typing import Any

import pytest

from plugins.encryption.vault import Vault as Plugin
from plugins.encryption.vault_inspection import _server
from sidecar import Finding
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import Vault
from tests.vault.world import plugin, refused


async def found(entered: Plugin) -> dict[str, Finding]:
    return {each.code: each for each in await entered.findings()}


async def test_a_vault_without_an_audit_device(start_vault: StartVault) -> None:
    vault = await start_vault(kept=False)
    async with plugin(vault) as entered:
        assert "vault audit enable" in (await found(entered))["no-audit-device"].remedy
        await vault.audit()
        assert "no-audit-device" not in await found(entered)


async def test_a_sealed_vault(start_vault: StartVault) -> None:
    vault = await start_vault()
    async with plugin(vault) as entered:
        await vault.seal()
        told = await found(entered)
        assert set(told) == {"sealed"}
        assert told["sealed"].severity == "error"
        await vault.unseal()
        assert "sealed" not in await found(entered)


@pytest.mark.parametrize(
    ("made", "configured", "code"),
    [
        ({"derived": False}, {}, "transit-not-derived"),
        ({"derived": True, "exportable": True}, {}, "transit-exportable"),
        ({"derived": True, "allow_plaintext_backup": True}, {}, "transit-exportable"),
        ({"derived": True}, {"deletion_allowed": True}, "transit-deletable"),
        ({"derived": True}, {}, None),
    ],
)
async def test_a_transit_key_that_is_not_kept_well(
    vault_server: Vault, made: dict[str, Any], configured: dict[str, Any], code: str | None
) -> None:
    mount = await vault_server.mount_transit()
    await vault_server.write(f"{mount}/keys/sidecar", **made)
    if configured:
        await vault_server.write(f"{mount}/keys/sidecar/config", **configured)
    async with plugin(vault_server, mode="transit", transit={"mount": mount}) as entered:
        transit = {each for each in await found(entered) if each.startswith("transit")}
    assert transit == ({code} if code else set())


async def test_a_transit_key_that_cannot_encrypt_refuses_the_start(vault_server: Vault) -> None:
    mount = await vault_server.mount_transit()
    await vault_server.write(f"{mount}/keys/sidecar", type="ed25519")
    assert "cannot encrypt" in await refused(vault_server, mode="transit", transit={"mount": mount})


@pytest.mark.parametrize(
    ("url", "health", "codes"),
    [
        ("http://127.0.0.1:8200", {}, set()),
        ("http://localhost:8200", {}, set()),
        ("http://[::1]:8200", {}, set()),
        ("https://vault.example.com", {}, set()),
        ("http://vault.example.com:8200", {}, {"no_tls"}),
        ("http://10.0.0.1:8200", {}, {"no_tls"}),
        ("https://vault", {"standby": True}, {"standby"}),
        ("https://vault", {"standby": True, "performance_standby": True}, set()),
        ("https://vault", {"server_time_utc": -60}, {"clock"}),
        ("https://vault", {"server_time_utc": 60}, {"clock"}),
        ("https://vault", {"server_time_utc": 1}, set()),
    ],
)
def test_what_a_server_says_of_itself(url: str, health: dict[str, Any], codes: set[str]) -> None:
    """Standbys and clocks that differ are not to be had from one Vault on this host."""
    options = Plugin.Options.model_validate({"url": url, "auth": {"kubernetes": {"role": "x"}}})
    told = {"standby": False, **health, "server_time_utc": time.time() + health.get("server_time_utc", 0)}
    assert {each.code for each in _server(told, options)} == codes
