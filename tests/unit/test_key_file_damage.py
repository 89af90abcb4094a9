"""What kills, damage, exchanged files and full disks do to the key file of `encryption.local`."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from plugins.encryption.keyfile import KeyFile
from plugins.encryption.keyrecords import HEADER_BYTES, scan
from plugins.encryption.masterkey import MasterKey
from sidecar import (
    KeyReference,
    Sealed,
    StartRefused,
    Unavailable,
)
from tests.sealing import TEXT, USER, chat, field, opens, seal
from tests.unit.local_keys import contents, opened, refused, started

# -- killed ------------------------------------------------------------------------------------------------------------


BEGINNING = """
import asyncio, sys
from pathlib import Path
from tests.sealing import seal
from tests.unit.local_keys import opened

async def main():
    async with opened(Path(sys.argv[1])) as cipher:
        for number in range(100_000):
            key, sealed = await seal(cipher, number)
            print(number, key, sealed.hex(), flush=True)

asyncio.run(main())
"""


async def test_after_kill_9_every_value_that_left_the_process_has_its_key(tmp_path: Path) -> None:
    process = started(BEGINNING, tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        lines += [line for line in process.stdout if line.endswith("\n")]
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
    assert len(lines) >= 40
    async with opened(tmp_path) as cipher:
        for line in lines:
            number, key, sealed = line.split()
            assert await opens(cipher, number, KeyReference(key), Sealed(bytes.fromhex(sealed)))


async def test_a_record_cut_short_anywhere_is_set_aside_and_all_others_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as cipher:
        kept = await seal(cipher, 1)
        whole = (tmp_path / "keys").stat().st_size
        await seal(cipher, 2)
    stored = (tmp_path / "keys").read_bytes()
    for cut in range(whole + 1, len(stored), 2):
        short = [stored[:cut]]
        if cut <= len(stored) - 4:  # nothing but the checksum's end missing may be damage as well, which is refused
            short.append(stored[:cut] + bytes(len(stored) - cut))
        for torn in short:
            (tmp_path / "keys").write_bytes(torn)
            caplog.clear()
            async with opened(tmp_path) as cipher:
                assert await opens(cipher, 1, *kept)
                assert cipher.counts() == (1, 0)
            assert (tmp_path / "keys").read_bytes() == stored[:whole]
            (side,) = tmp_path.glob("keys.torn-*")
            assert side.read_bytes() == torn[whole:]
            assert side.stat().st_mode & 0o777 == 0o600
            assert side.name in caplog.text
            assert "cut short" in caplog.text
            side.unlink()


async def test_a_record_that_another_process_left_half_written_is_set_aside_by_the_next_writer(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        kept = await seal(cipher, 1)
        size = (tmp_path / "keys").stat().st_size
        with (tmp_path / "keys").open("ab") as file:
            file.write((tmp_path / "keys").read_bytes()[HEADER_BYTES : HEADER_BYTES + 60])
        cipher.drop_cached()
        assert await opens(cipher, 1, *kept)
        assert not list(tmp_path.glob("keys.torn-*")), "reading repairs nothing"
        new = await seal(cipher, 2)
        (side,) = tmp_path.glob("keys.torn-*")
        assert side.stat().st_size == 60
    assert (tmp_path / "keys").stat().st_size > size
    async with opened(tmp_path) as cipher:
        assert await opens(cipher, 1, *kept)
        assert await opens(cipher, 2, *new)


# -- damaged, foreign, exchanged ---------------------------------------------------------------------------------------


async def test_a_damaged_byte_anywhere_refuses_the_start_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        await seal(cipher, 1)
        await cipher.destroy((await seal(cipher, 2))[0])
    path = tmp_path / "keys"
    stored = path.read_bytes()
    records, _ = scan(stored[HEADER_BYTES:], HEADER_BYTES)
    shredded = range(records[1].at, records[1].at + len(records[1].body) + 4)
    for at in set(range(len(stored))) - set(shredded):
        path.write_bytes(stored[:at] + bytes([stored[at] ^ 0x10]) + stored[at + 1 :])
        with pytest.raises(StartRefused, match=r"backup|master"):
            KeyFile.at(path, MasterKey(bytes.fromhex((tmp_path / "master.key").read_text())))
        assert len(path.read_bytes()) == len(stored)
    path.write_bytes(stored[:90] + bytes([stored[90] ^ 1]) + stored[91:])
    says = await refused(tmp_path)
    assert str(path) in says
    assert "backup" in says


async def test_records_that_were_moved_or_repeated_refuse_the_start(tmp_path: Path) -> None:
    """Records that are whole in themselves, but not as they were written."""
    async with opened(tmp_path) as cipher:
        await cipher.begin(USER, chat(1))
        await cipher.rotate(await cipher.begin(USER, chat(1)))
    stored = (tmp_path / "keys").read_bytes()
    half = HEADER_BYTES + (len(stored) - HEADER_BYTES) // 2
    header, first, second = stored[:HEADER_BYTES], stored[HEADER_BYTES:half], stored[half:]
    for forged in (header + second + first, header + first + first, header + second):
        (tmp_path / "keys").write_bytes(forged)
        assert "damaged" in await refused(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"SIDE", b"hello, this is a text file of somebody else, and quite a long one, too"]
)
async def test_what_is_no_key_file_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / "keys").write_bytes(content)
    assert "does not begin" in await refused(tmp_path) or content == b"SIDE"


async def test_a_key_file_of_a_newer_format_is_not_touched(tmp_path: Path) -> None:
    import zlib

    async with opened(tmp_path):
        pass
    header = bytearray((tmp_path / "keys").read_bytes())
    header[8] = 2
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "big")
    (tmp_path / "keys").write_bytes(header)
    assert "newer version" in await refused(tmp_path)


async def test_another_master_key_refuses_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    says = await refused(tmp_path, master_key="ab" * 32)
    assert "another master key" in says
    assert "abab" not in says


async def test_a_missing_master_key_is_not_made_again_beside_a_key_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        kept = await seal(cipher, 1)
    secret = (tmp_path / "master.key").read_bytes()
    (tmp_path / "master.key").unlink()
    says = await refused(tmp_path)
    assert str(tmp_path / "master.key") in says
    assert "backup" in says
    (tmp_path / "master.key").write_bytes(secret)
    (tmp_path / "master.key").chmod(0o600)
    async with opened(tmp_path) as cipher:
        assert await opens(cipher, 1, *kept)


@pytest.mark.parametrize("content", [b"", b"abc", b"zz" * 32, b"\xff" * 64])
async def test_a_damaged_master_key_refuses_the_start(tmp_path: Path, content: bytes) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / "master.key").write_bytes(content)
    assert "no master key" in await refused(tmp_path)


@pytest.mark.parametrize("name", ["keys", "master.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
async def test_files_open_to_others_refuse_the_start(tmp_path: Path, name: str, mode: int) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / name).chmod(mode)
    says = await refused(tmp_path)
    assert f"chmod 600 {tmp_path / name}" in says
    (tmp_path / name).chmod(0o600)
    async with opened(tmp_path) as cipher:
        await cipher.begin(USER, chat(1))


async def test_a_folder_that_is_not_there_refuses_the_start_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="No such file"):
        async with opened(tmp_path / "nowhere"):
            pass


@pytest.mark.parametrize("how", ["truncated", "damaged", "foreign"])
async def test_a_file_exchanged_while_running_is_unavailable_and_not_written(tmp_path: Path, how: str) -> None:
    path = tmp_path / "keys"
    async with AsyncExitStack() as stack:
        cipher = await stack.enter_async_context(opened(tmp_path))
        key, sealed = await seal(cipher, 1)
        good = path.read_bytes()
        if how == "truncated":
            bad = good[:HEADER_BYTES]
        elif how == "damaged":
            bad = good + good[HEADER_BYTES:]
        else:
            foreign = tmp_path / "foreign"
            foreign.mkdir()
            async with opened(foreign) as other:
                await seal(other, 1)
            bad = (foreign / "keys").read_bytes()
        path.write_bytes(bad)
        cipher.drop_cached()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await cipher.begin(USER, chat(2))
            with pytest.raises(Unavailable):
                await cipher.seal(key, field(chat(1)), TEXT)
        assert path.read_bytes() == bad
        path.write_bytes(good)
        assert await opens(cipher, 1, key, sealed)


# -- a full or failing disk --------------------------------------------------------------------------------------------


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond this size fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_leaves_no_half_record_and_no_key(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        kept = await seal(cipher, 1)
        before = contents(tmp_path)
        with file_size_limit(len(before["keys"]) + 100):
            with pytest.raises(Unavailable) as caught:
                await cipher.begin(USER, chat(2))
            with pytest.raises(Unavailable):
                await cipher.rotate(kept[0])
            with pytest.raises(Unavailable):
                await cipher.destroy(await cipher.begin(USER, chat(3)))
            assert caught.value.part == "encryption"
            assert contents(tmp_path) == before
            cipher.drop_cached()
            assert await opens(cipher, 1, *kept)
            assert not await cipher.destroyed(USER, [chat(1), chat(2)])
        assert cipher.counts() == (1, 0)
        new = await seal(cipher, 2)
        assert await opens(cipher, 2, *new)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_a_key_that_may_not_be_on_the_disk_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    async with opened(tmp_path) as cipher:
        await seal(cipher, 1)
        before = contents(tmp_path)

        def failing(_: int) -> None:
            raise OSError(error, os.strerror(error))

        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", failing)
            results = await asyncio.gather(
                *(cipher.begin(USER, chat(number)) for number in range(2, 6)), return_exceptions=True
            )
        assert all(isinstance(result, Unavailable) for result in results)
        assert contents(tmp_path) == before
        await seal(cipher, 2)
    async with opened(tmp_path) as cipher:
        assert cipher.counts() == (2, 0)


async def test_a_full_disk_at_the_first_start_leaves_nothing_half_made(tmp_path: Path) -> None:
    with file_size_limit(10), pytest.raises(StartRefused, match="cannot be used"):
        async with opened(tmp_path):
            pass
    assert {path.name for path in tmp_path.iterdir()} <= {"keys.lock"}
    async with opened(tmp_path) as cipher:
        await seal(cipher, 1)


async def test_a_caller_that_is_cancelled_leaves_the_others_their_answers(tmp_path: Path) -> None:
    async with opened(tmp_path) as cipher:
        calls = [asyncio.create_task(cipher.begin(USER, chat(number))) for number in range(10)]
        await asyncio.sleep(0)
        calls[3].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[3], asyncio.CancelledError)
        assert len({result for result in results if isinstance(result, str)}) == 9
        assert await cipher.begin(USER, chat(3))
