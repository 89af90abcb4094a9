"""The ciphers that ship keep to the contract of their slot (S65)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from plugins.encryption.local import Local
from plugins.encryption.passthrough import Passthrough
from plugins.encryption.vault import Vault
from sidecar import ChatId, Cipher, KeyedCipher, KeyReference, Surroundings
from sidecar.testing.cipher import ANNA, CHAT, CipherContract, a_field
from tests.services.vault.fixtures import StartVault
from tests.services.vault.vault import Vault as VaultService


class TestLocal(CipherContract):
    @pytest_asyncio.fixture
    async def cipher(self, tmp_path: Path) -> AsyncIterator[Cipher]:  # type: ignore[override]
        async with Local(Local.Options(), Surroundings(data_dir=tmp_path, host="127.0.0.1")) as plugin:
            yield await plugin.provide_encryption()

    @pytest_asyncio.fixture
    async def broken_cipher(self, tmp_path: Path) -> AsyncIterator[tuple[Cipher, KeyReference]]:  # type: ignore[override]
        async with Local(Local.Options(), Surroundings(data_dir=tmp_path, host="127.0.0.1")) as plugin:
            cipher = await plugin.provide_encryption()
            key = await cipher.begin(ANNA, CHAT)
            (tmp_path / "keys").rename(tmp_path / "elsewhere")
            yield cipher, key
            assert not (tmp_path / "keys").exists(), "a key file was made up"


class TestPassthrough(CipherContract):
    keyed = False
    finds_marks = False
    lists_keys = False

    @pytest_asyncio.fixture
    async def cipher(self) -> AsyncIterator[Cipher]:
        yield await Passthrough(Passthrough.Options()).provide_encryption()

    @pytest_asyncio.fixture
    async def broken_cipher(self) -> AsyncIterator[tuple[Cipher, KeyReference]]:
        pytest.skip("not promised: it has no backend")
        yield

    async def test_it_says_that_the_client_seals_and_changes_nothing(self, cipher: Cipher) -> None:
        assert cipher.end_to_end
        key = await cipher.begin(ANNA, CHAT)
        assert await cipher.seal(key, a_field(), b"what the client sealed") == b"what the client sealed"
        await cipher.destroy(key)
        assert await cipher.destroyed(ANNA, [CHAT, ChatId("x")]) == {}
        assert await cipher.begin(ANNA, CHAT) == key


class TestVault(CipherContract):
    """On a real Vault, in KV v2 mode."""

    mode = "kv"

    def plugin(self, vault: VaultService, url: str | None = None) -> Vault:
        options = {
            "url": url or vault.url,
            "mount": vault.mount,
            "mode": self.mode,
            "auth": {"token": {"value": vault.root_token}},
        }
        return Vault(Vault.Options.model_validate(options))

    @pytest_asyncio.fixture
    async def cipher(self, vault_server: VaultService) -> AsyncIterator[Cipher]:  # type: ignore[override]
        await self.prepare(vault_server)
        async with self.plugin(vault_server) as plugin:
            yield await plugin.provide_encryption()

    async def prepare(self, vault: VaultService) -> None:
        """Nothing but the KV v2 engine is needed."""

    @pytest_asyncio.fixture
    async def broken_cipher(self, start_vault: StartVault) -> AsyncIterator[tuple[Cipher, KeyReference]]:  # type: ignore[override]
        vault = await start_vault(kept=False)
        await self.prepare(vault)
        async with self.plugin(vault) as plugin:
            cipher = await plugin.provide_encryption()
            assert isinstance(cipher, KeyedCipher)
            key = await cipher.begin(ANNA, CHAT)
            cipher.drop_cached()
            await vault.seal()
            yield cipher, key
            await vault.unseal()
            assert len(await vault.entries("sidecar/")) == 1, "a key was made up"


class TestVaultTransit(TestVault):
    """On a real Vault, in transit mode."""

    mode = "transit"

    async def prepare(self, vault: VaultService) -> None:
        await vault.mount_transit("transit")
        await vault.write("transit/keys/sidecar", derived=True)
