"""The journal's file: whole records or none, damage said plainly, nothing overwritten."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from plugins.cache.journal import Journal
from plugins.cache.journal_line import generation
from plugins.cache.journal_reader import FORMAT
from sidecar.errors import StartRefused, Unavailable

_FIRST = generation([], 0, 0, 1.0)


def _header(number: int, *blobs: bytes) -> bytes:
    return orjson.dumps({"at": float(number), "user": None, "do": [], "blobs": [len(blob) for blob in blobs]})


def _write(folder: Path, numbers: range, *, begin: bool = True) -> list[int]:
    """A generation of these records; where each of them ends in the file."""
    ends = []
    with Journal(folder) as journal:
        if begin:
            journal.begin(_FIRST)
        for number in numbers:
            blob = b"x" * number
            journal.append(_header(number, blob, b"second"), [blob, b"second"])
            ends.append(journal.size)
    return ends


def _read(folder: Path) -> list[int]:
    found = []
    with Journal(folder) as journal:
        for record in journal.records():
            if "format" not in record.header:
                number = int(record.header["at"])
                assert record.blobs == (b"x" * number, b"second")
                found.append(number)
    return found


def test_generations_are_read_in_order(tmp_path: Path) -> None:
    """Records come back as they were written, oldest generation first, in files that only their owner may read."""
    folder = tmp_path / "cache"
    _write(folder, range(3))
    _write(folder, range(3, 6))
    assert _read(folder) == [0, 1, 2, 3, 4, 5]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert sorted(path.name for path in folder.glob("journal.*")) == ["journal.000001", "journal.000002"]


def test_complete_takes_the_older_generations_away(tmp_path: Path) -> None:
    _write(tmp_path, range(3))
    with Journal(tmp_path) as journal:
        journal.begin(_FIRST)
        journal.append(_header(9, b"x" * 9, b"second"), [b"x" * 9, b"second"])
        journal.force()
        journal.complete()
    assert _read(tmp_path) == [9]
    assert [path.name for path in tmp_path.glob("journal.*")] == ["journal.000002"]


def test_f14_a_torn_tail_is_set_aside_at_every_byte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """F14: wherever the last record is cut, the records before it are there and what was left of it is kept in a side file."""
    ends = _write(tmp_path, range(10, 13))
    path = tmp_path / "journal.000001"
    whole = path.read_bytes()
    for cut in range(ends[1] + 1, ends[2]):
        path.write_bytes(whole[:cut])
        caplog.clear()
        assert _read(tmp_path) == [10, 11]
        aside = tmp_path / f"journal.000001.torn-{ends[1]}"
        assert aside.read_bytes() == whole[ends[1] : cut]
        assert path.read_bytes() == whole[: ends[1]]
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert f"its {cut - ends[1]} bytes were set aside as {aside.name}" in caplog.text
        assert str(path) in caplog.text
        aside.unlink()


def test_a_last_record_of_a_wrong_checksum_is_torn(tmp_path: Path) -> None:
    """Its length was written and not all of its bytes, as after a power failure; an older side file is not overwritten."""
    ends = _write(tmp_path, range(10, 13))
    path = tmp_path / "journal.000001"
    (tmp_path / f"{path.name}.torn-{ends[1]}").write_bytes(b"older")
    path.write_bytes(path.read_bytes()[: ends[2] - 4] + b"\0\0\0\0")
    assert _read(tmp_path) == [10, 11]
    assert (tmp_path / f"{path.name}.torn-{ends[1]}").read_bytes() == b"older"
    assert len((tmp_path / f"{path.name}.torn-{ends[1]}-1").read_bytes()) == ends[2] - ends[1]


def test_f42_damage_in_the_middle_refuses_at_every_byte(tmp_path: Path) -> None:
    """F42: a flipped byte with good records behind it is no torn tail: the start is refused, file, place and remedy named."""
    ends = _write(tmp_path, range(10, 14))
    path = tmp_path / "journal.000001"
    whole = path.read_bytes()
    for place in range(ends[0], ends[1]):
        damaged = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(StartRefused) as refused:
            _read(tmp_path)
        assert f"{path}, byte {ends[0]}" in str(refused.value)
        assert "Move the file aside" in str(refused.value)
        assert path.read_bytes() == damaged
        assert sorted(each.name for each in tmp_path.iterdir()) == ["journal.000001", "lock"]


def _newer(path: Path) -> None:
    path.unlink()
    with Journal(path.parent) as journal:
        journal.begin(orjson.dumps({"at": 1.0, "format": FORMAT + 1}))


def _no_format(path: Path) -> None:
    path.unlink()
    with Journal(path.parent) as journal:
        journal.begin(_header(1))


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(10_000))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_newer, "newer release"),
        (_no_format, "no journal of the memory cache"),
        (_garbage, "no journal of the memory cache"),
        (_folder, "cannot be read"),
    ],
)
def test_what_is_no_journal_of_ours_refuses(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    _write(tmp_path, range(2))
    path = tmp_path / "journal.000001"
    damage(path)
    with pytest.raises(StartRefused, match=says) as refused:
        _read(tmp_path)
    assert str(path) in str(refused.value)
    assert path.exists()


def test_a_torn_generation_that_is_not_the_last_refuses(tmp_path: Path) -> None:
    _write(tmp_path, range(2))
    _write(tmp_path, range(2, 4))
    path = tmp_path / "journal.000001"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StartRefused, match="a later one follows"):
        _read(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second sidecar on the same folder is refused with its remedy, and the first goes on."""
    with Journal(tmp_path) as first:
        first.begin(_FIRST)
        with pytest.raises(StartRefused, match=r"another sidecar.*redis"), Journal(tmp_path):
            pass
        first.append(_header(0, b"", b"second"), [b"", b"second"])
    assert _read(tmp_path) == [0]


def test_a_folder_that_cannot_be_used_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartRefused, match="cannot be used"), Journal(tmp_path / "file"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_f12_f13_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """F12, F13: half a record is cut back, the change is `Unavailable`, and with room again the file goes on whole."""
    write = os.write

    def half(file: int, data: bytes) -> int:
        write(file, data[: len(data) // 2])
        if code == errno.ENOSPC:
            return len(data) // 2
        raise OSError(code, os.strerror(code))

    with Journal(tmp_path) as journal:
        journal.begin(_FIRST)
        size = journal.size
        monkeypatch.setattr(os, "write", half)
        for _ in range(2):
            with pytest.raises(Unavailable, match=os.strerror(code)):
                journal.append(_header(1, b"x", b"second"), [b"x", b"second"])
        assert not journal.writable
        assert (tmp_path / "journal.000001").stat().st_size == size
        with pytest.raises(Unavailable):
            journal.begin(_FIRST)
        monkeypatch.undo()
        journal.append(_header(2, b"xx", b"second"), [b"xx", b"second"])
        assert journal.writable
    assert _read(tmp_path) == [2]


def test_what_cannot_be_cut_back_ends_all_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record behind half a one would be lost at the next start: none is written."""

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with Journal(tmp_path) as journal:
        journal.begin(_FIRST)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            patch.setattr(os, "ftruncate", fail)
            with pytest.raises(Unavailable):
                journal.append(_header(1))
        with pytest.raises(Unavailable, match="until a restart"):
            journal.append(_header(2))
    assert _read(tmp_path) == []


_FULL = """
import resource, sys
from pathlib import Path
import orjson
from plugins.cache.journal import Journal
from plugins.cache.journal_line import generation
from sidecar import Unavailable
with Journal(Path(sys.argv[1])) as journal:
    journal.begin(generation([], 0, 0, 1.0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    number = 0
    try:
        while number < 1000:
            blob = b"x" * number
            journal.append(orjson.dumps({"at": float(number), "user": None, "do": [], "blobs": [number, 6]}), [blob, b"second"])
            number += 1
    except Unavailable:
        print(number)
"""


def test_f12_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """F12: at a real limit of the system every record that was answered is there, and no other."""
    done = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, check=True, text=True)
    count = int(done.stdout)
    assert 50 < count < 1000
    assert (tmp_path / "journal.000001").stat().st_size <= 20_000
    assert _read(tmp_path) == list(range(count))
