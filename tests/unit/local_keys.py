"""What the tests of `encryption.local` share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plugins.encryption.keyrecords import HEADER_BYTES, scan
from plugins.encryption.local import Local, LocalCipher
from sidecar import StartRefused, Surroundings

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def opened(data_dir: Path, **options: Any) -> AsyncIterator[LocalCipher]:
    plugin = Local(Local.Options(**options), Surroundings(data_dir=data_dir, host="127.0.0.1"))
    async with plugin:
        cipher = await plugin.provide_encryption()
        assert isinstance(cipher, LocalCipher)
        yield cipher


async def refused(data_dir: Path, **options: Any) -> str:
    """The text of the refusal to start, after a look that nothing in the folder was changed by it."""
    before = contents(data_dir)
    with pytest.raises(StartRefused) as caught:
        async with opened(data_dir, **options):
            pass
    assert contents(data_dir) == before
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    """What stands in the folder. The lock file holds nothing of a key: its bytes only say that others should look."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


def body_of(data_dir: Path, number: int) -> tuple[int, bytes]:
    """Place and bytes of the n-th record's body in the key file."""
    records, _ = scan((data_dir / "keys").read_bytes()[HEADER_BYTES:], HEADER_BYTES)
    return records[number].at, records[number].body


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def started(script: str, data_dir: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(data_dir), *more],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
