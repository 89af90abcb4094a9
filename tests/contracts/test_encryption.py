"""The two ciphers that ship keep to the contract of their slot (S65)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from plugins.encryption.local import Local
from plugins.encryption.passthrough import Passthrough
from sidecar import ChatId, Cipher, KeyReference, Surroundings
from sidecar.testing.cipher import ANNA, CHAT, CipherContract, a_field


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
