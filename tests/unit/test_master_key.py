"""The master key of `encryption.local`: how it is written, and that it is never shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from plugins.encryption.local import Local, LocalCipher
from sidecar import (
    KeyGone,
    Surroundings,
)
from tests.sealing import USER, chat, opens, seal
from tests.unit.local_keys import opened, refused

BYTES = bytes(range(200, 232))
PASSPHRASE = "correct horse battery staple, twice over"


@pytest.mark.parametrize(
    "same",
    [
        BYTES.hex(),
        BYTES.hex().upper(),
        "yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc",
        "yMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7f4OHi4+Tl5uc=",
    ],
)
async def test_a_master_key_may_be_written_in_hex_or_base64(tmp_path: Path, same: str) -> None:
    async with opened(tmp_path, master_key=BYTES.hex()) as cipher:
        kept = await seal(cipher, 1)
    async with opened(tmp_path, master_key=same) as cipher:
        assert await opens(cipher, 1, *kept)
    assert not (tmp_path / "master.key").exists()


async def test_a_passphrase_is_stretched_with_the_files_own_salt(tmp_path: Path) -> None:
    async with opened(tmp_path, master_key=PASSPHRASE) as cipher:
        kept = await seal(cipher, 1)
    async with opened(tmp_path, master_key=PASSPHRASE) as cipher:
        assert await opens(cipher, 1, *kept)
    assert "another master key" in await refused(tmp_path, master_key=PASSPHRASE + "!")


@pytest.mark.parametrize("short", ["", "tooshort", "x" * 31])
def test_a_short_master_key_is_refused_without_repeating_it(short: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Local.Options(master_key=short)  # type: ignore[arg-type]
    assert "32" in str(caught.value)
    assert "openssl rand" in str(caught.value)
    assert not short or short not in str(caught.value)


async def test_t38_no_log_and_no_representation_shows_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    options = Local.Options(master_key=BYTES.hex())  # type: ignore[arg-type]
    plugin = Local(options, Surroundings(data_dir=tmp_path, host="127.0.0.1"))
    async with plugin:
        cipher = await plugin.provide_encryption()
        assert isinstance(cipher, LocalCipher)
        key, _ = await seal(cipher, 1)
        secrets = await cipher.read_key(key)
        await cipher.destroy(key)
        with pytest.raises(KeyGone):
            await cipher.begin(USER, chat(1))
        wrap = vars(cipher._file)["_wrap"]
        shown = caplog.text + repr(options) + repr(vars(plugin)) + repr(vars(cipher._file)) + repr(wrap)
    for secret in (BYTES, secrets[1]):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    assert "canary" not in shown
