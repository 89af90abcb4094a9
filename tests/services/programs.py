"""Where the servers' programs are found. Nothing is installed here: `make services` does that (`install.py`)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


class Missing(Exception):
    """A program that tests want is not there; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Program:
    """A server's program."""

    path: str
    name: str
    version: tuple[int, ...]

    @property
    def description(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}: {self.path}"


_HOW = (
    "Install redis-server 7 or newer (root on Debian: make services), or name one: SIDECAR_TEST_REDIS=/path/to/server."
)


def find_strace() -> str:
    """`strace`, with which tests make a server's system calls fail."""
    path = shutil.which("strace")
    if path is None:
        raise Missing("No strace on PATH. Install it (root on Debian: make services).")
    return path


def find_faketime(*, threads: bool = True) -> str:
    """The library that gives a process another time than its host (`LD_PRELOAD`; the program `faketime` starts a child of its own).

    Without `threads` the one that does not lock.
    """
    name = "libfaketimeMT.so.1" if threads else "libfaketime.so.1"
    named = os.environ.get("SIDECAR_TEST_FAKETIME")
    places = [Path(named).with_name(name)] if named else Path("/usr").glob(f"lib*/*/faketime/{name}")
    for path in places:
        if path.exists():
            return str(path)
    raise Missing("No libfaketime below /usr/lib. Install it (root on Debian: make services).")


def find_redis() -> Program:
    """`SIDECAR_TEST_REDIS`, else the first `redis-server` or `valkey-server` on PATH."""
    named = os.environ.get("SIDECAR_TEST_REDIS")
    path = shutil.which(named) if named else shutil.which("redis-server") or shutil.which("valkey-server")
    if path is None:
        raise Missing(f"No {named or 'redis-server'} on PATH. {_HOW}")
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.match(r"(\w+) server v=(\d+(?:\.\d+)*)", told, re.IGNORECASE)
    if found is None:
        raise Missing(f"{path} --version says {told!r}, which is no Redis or Valkey. {_HOW}")
    program = Program(path, f"{found[1].lower()}-server", tuple(map(int, found[2].split("."))))
    if program.version < (7,):
        raise Missing(f"Too old: {program.description}. {_HOW}")
    return program


def find_postgres() -> Path:
    """The folder with PostgreSQL's programs: `SIDECAR_TEST_POSTGRES`, else Debian's newest."""
    named = os.environ.get("SIDECAR_TEST_POSTGRES")
    folders = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parts)
    for folder in reversed(folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise Missing(
        "No PostgreSQL below /usr/lib/postgresql. Install postgresql, or name its bin: SIDECAR_TEST_POSTGRES."
    )
