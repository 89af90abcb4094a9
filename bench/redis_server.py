"""A redis-server of the bench's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from bench.cores import on_core
from bench.editing import BenchFailed
from bench.missing import Missing

_SETTINGS = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
"""As one who keeps drafts in it should run it, but for the rewriting of its file, which would fall into some rounds and not into others."""
_PATIENCE = 20.0


def program() -> str:
    """The server's path."""
    named = os.environ.get("SIDECAR_TEST_REDIS")
    path = shutil.which(named) if named else shutil.which("redis-server") or shutil.which("valkey-server")
    if path is None:
        raise Missing(f"no {named or 'redis-server'} on PATH; apt-get install redis-server")
    return path


def described() -> str:
    """Name and version, for the table's head."""
    words = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout.split()
    return " ".join([words[0], *(word.partition("=")[2] for word in words if word.startswith("v="))])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A context manager: it runs on a free port and keeps its files in `folder`, which is made if need be."""

    def __init__(self, folder: Path, core: int | None = None) -> None:
        self._folder = folder
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        place = ("--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(self._folder))
        with (self._folder / "redis.log").open("ab") as log, on_core(self._core):
            self._process = subprocess.Popen(
                [program(), *place, *_SETTINGS], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def cpu(self) -> float:
        """Seconds of CPU time that it has used so far, in all its threads."""
        with redis.Redis.from_url(self.url) as client:
            told = client.info("cpu")
        return float(told["used_cpu_sys"]) + float(told["used_cpu_user"])

    def memory(self) -> int:
        """Bytes that its data takes, by its own count."""
        with redis.Redis.from_url(self.url) as client:
            return int(client.info("memory")["used_memory"])

    def _until_it_answers(self) -> None:
        until = time.monotonic() + _PATIENCE
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                        said = (self._folder / "redis.log").read_text(encoding="utf-8", errors="replace")[-1000:]
                        raise BenchFailed(f"redis-server did not start: {said}") from error
                time.sleep(0.01)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # its data is of no use to anybody
            self._process.wait()
