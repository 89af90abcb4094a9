"""`encryption.local` on a disk: what outlives a restart, and what leaves the file."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from plugins.encryption.local import Local
from sidecar import (
    ChatId,
    KeyGone,
    Surroundings,
    Unavailable,
)
from tests.sealing import USER, chat, field, kept_for_the_next, listed, opens, seal, unknown_make_no_key
from tests.unit.local_keys import body_of, contents, opened, overwrite

# -- the life of a file ------------------------------------------------------------------------------------------------


async def test_keys_and_marks_outlive_a_restart(tmp_path: Path) -> None:
    async with kept_for_the_next(lambda: opened(tmp_path)) as cipher:
        assert cipher.counts() == (1, 1)


async def test_files_are_the_owners_alone_and_hold_no_plain_key(tmp_path: Path) -> None:
    old = os.umask(0)  # so that only what the plugin asks for counts
    try:
        async with opened(tmp_path) as cipher:
            key, _ = await seal(cipher, 1)
            secrets = await cipher.read_key(key)
    finally:
        os.umask(old)
    assert {path.name for path in tmp_path.iterdir()} == {"keys", "keys.lock", "master.key"}
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
    stored = (tmp_path / "keys").read_bytes()
    assert secrets[1] not in stored
    assert USER.encode() not in stored
    assert chat(1).encode() not in stored


async def test_state_says_what_is_there(tmp_path: Path) -> None:
    plugin = Local(Local.Options(path=Path("elsewhere")), Surroundings(data_dir=tmp_path, host="127.0.0.1"))
    async with plugin:
        cipher = await plugin.provide_encryption()
        await cipher.begin(USER, chat(1))
        await cipher.destroy(await cipher.begin(USER, chat(2)))
        assert plugin.state() == {"keys": 1, "destroyed": 1}
        assert (tmp_path / "elsewhere").exists()


async def test_t36_no_text_of_a_client_reaches_a_path_or_a_reference(tmp_path: Path) -> None:
    """T36: hostile chat ids are bytes to a hash; no file but the known ones appears, inside or outside of the folder."""
    inside = tmp_path / "data"
    inside.mkdir()
    hostile = [
        "../../x",
        "..",
        "/etc/x",
        "a/b",
        "{}",
        "{x}*",
        "a\r\nb",
        "a\0b",
        "%2e%2e%2f",
        "keys",
        "x" * 500,
        "😀",
        " ",
    ]
    async with opened(inside) as cipher:
        keys = [await cipher.begin(USER, ChatId(each)) for each in hostile]
        known = {(key, chat_id) for key, _, chat_id in await listed(cipher)}
    assert len(set(keys)) == len(hostile)
    assert all(re.fullmatch(r"local:[0-9a-f]{64}", key) for key in keys)
    assert known == set(zip(keys, hostile, strict=True))
    assert {path.name for path in inside.iterdir()} == {"keys", "keys.lock", "master.key"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    async with opened(inside) as cipher:
        with pytest.raises(ValueError, match="characters"):
            await cipher.begin(USER, ChatId("x" * 2000))


async def test_s60_an_unknown_reference_makes_no_key(tmp_path: Path) -> None:
    """S60: another machine's reference, another cipher's, nonsense: nothing is sealed, nothing is written."""

    async def stored() -> dict[str, bytes]:
        return contents(tmp_path)

    async with opened(tmp_path) as cipher:
        await unknown_make_no_key(cipher, ("local:" + "0" * 64, "local:../x", "vault:x", ""), stored)


async def test_s60_a_key_file_that_is_away_is_not_made_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        key, sealed = await seal(cipher, 1)
        cipher.drop_cached()
        (tmp_path / "keys").rename(tmp_path / "away")
        with pytest.raises(Unavailable):
            await cipher.begin(USER, chat(2))
        with pytest.raises(Unavailable):
            await cipher.open(key, field(chat(1)), sealed)
        assert not (tmp_path / "keys").exists()
        (tmp_path / "away").rename(tmp_path / "keys")
        assert await opens(cipher, 1, key, sealed)


# -- destruction -------------------------------------------------------------------------------------------------------


async def test_a_destroyed_key_leaves_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        key, _ = await seal(cipher, 1)
        await cipher.rotate(key)
        bodies = [body_of(tmp_path, number) for number in (0, 1)]
        await cipher.destroy(key)
    stored = (tmp_path / "keys").read_bytes()
    for at, body in bodies:
        assert body not in stored
        assert not any(stored[at : at + len(body)])


@pytest.mark.parametrize("still_there", [1.0, 0.5])
async def test_a_destruction_that_was_interrupted_is_finished_at_the_next_start(
    tmp_path: Path, still_there: float
) -> None:
    """A kill between the mark and the overwriting, or in the middle of the overwriting."""
    async with opened(tmp_path) as cipher:
        key, _ = await seal(cipher, 1)
        other = await seal(cipher, 2)
        at, body = body_of(tmp_path, 0)
        await cipher.destroy(key)
    overwrite(tmp_path / "keys", at, body[: int(len(body) * still_there)])
    async with opened(tmp_path) as cipher:
        assert not any(body_of(tmp_path, 0)[1])
        with pytest.raises(KeyGone):
            await cipher.begin(USER, chat(1))
        assert await opens(cipher, 2, *other)


async def test_a_forgotten_chat_leaves_no_trace_after_the_next_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        key, _ = await seal(cipher, 1)
        other = await seal(cipher, 2)
        await cipher.destroy(key)
        await cipher.forget(key)
        assert not await cipher.destroyed(USER, [chat(1)])
    async with opened(tmp_path) as cipher:
        assert bytes.fromhex(key.removeprefix("local:")) not in (tmp_path / "keys").read_bytes()
        assert await opens(cipher, 2, *other)
        assert cipher.counts() == (1, 0)


async def test_a_file_that_is_mostly_dead_is_written_anew_under_a_running_process(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        kept = await seal(cipher, "kept")
        keys = await asyncio.gather(*(cipher.begin(USER, chat(number)) for number in range(500)))
        await asyncio.gather(*map(cipher.destroy, keys))
        before = (tmp_path / "keys").stat().st_size
        async with opened(tmp_path) as second:
            assert (tmp_path / "keys").stat().st_size < before / 2
            assert second.counts() == cipher.counts() == (1, 500)
            for each in (second, cipher):
                each.drop_cached()
                assert await opens(each, "kept", *kept)
                assert len(await each.destroyed(USER, [chat(number) for number in range(500)])) == 500
                with pytest.raises(KeyGone):
                    await each.begin(USER, chat(7))
            new = await seal(cipher, "new")
            assert await opens(second, "new", *new)
        assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
