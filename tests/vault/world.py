"""What the tests of `encryption.vault` share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plugins.encryption.vault import Vault
from plugins.encryption.vault_cipher import VaultCipher
from plugins.encryption.vault_entry import slot_of
from sidecar import StartRefused, UserHash
from tests.sealing import USER, chat
from tests.services.vault.vault import Vault as VaultService

ROOT = Path(__file__).parents[2]
POLICY = (ROOT / "config/vault/policy.hcl").read_text()
OTHER = UserHash("b2" * 32)


def at(number: int | str, user: UserHash = USER) -> str:
    """Where the entry of a chat is, below the engine."""
    return f"sidecar/{slot_of(user, chat(number))}"


def plugin(vault: VaultService, **options: Any) -> Vault:
    """With root's token, unless `auth` says otherwise."""
    given = {"url": vault.url, "mount": vault.mount, "auth": {"token": {"value": vault.root_token}}}
    return Vault(Vault.Options.model_validate(given | options))


@asynccontextmanager
async def opened(vault: VaultService, **options: Any) -> AsyncIterator[VaultCipher]:
    async with plugin(vault, **options) as entered:
        cipher = await entered.provide_encryption()
        assert isinstance(cipher, VaultCipher)
        yield cipher


async def refused(vault: VaultService, **options: Any) -> str:
    """The text of the refusal to start."""
    with pytest.raises(StartRefused) as caught:
        async with opened(vault, **options):
            pass
    return str(caught.value)


async def data_of(vault: VaultService, number: int | str) -> dict[str, Any]:
    """What stands in the newest version of a chat's entry."""
    told = await vault.read(f"{vault.mount}/data/{at(number)}")
    assert told is not None
    return dict(told["data"]["data"])


async def by_hand(vault: VaultService, number: int | str, data: Mapping[str, Any]) -> None:
    """Somebody writes into a chat's entry."""
    await vault.write(f"{vault.mount}/data/{at(number)}", data=dict(data))


async def metadata_of(vault: VaultService, number: int | str) -> dict[str, Any]:
    told = await vault.read(f"{vault.mount}/metadata/{at(number)}")
    assert told is not None
    return dict(told["data"])


async def with_transit(vault: VaultService) -> dict[str, Any]:
    """A transit engine with its key; the options for it."""
    mount = await vault.mount_transit()
    await vault.write(f"{mount}/keys/sidecar", derived=True)
    return {"mode": "transit", "transit": {"mount": mount}}
