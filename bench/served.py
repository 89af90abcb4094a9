"""A server in a process of its own, as the bench sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from bench.cores import on_core
from bench.editing import BenchFailed
from bench.hocuspocus.installing import Hocuspocus

ROOT = Path(__file__).parents[1]
_LAUNCH = (sys.executable, "-m", "bench.launch")


def _write_config(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The embedded sidecar with its files in `folder`, any free port, and limits per socket, address and person out of the way."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sidecar.yaml"
    whole: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "server": {"port": 0, "drain": "0ms"},
        "limits": {
            "frames_per_second": 100_000,
            "burst": 1_000_000,
            "connections_per_address": 100_000,
            "bytes_per_user": "1024MiB",
        },
        "logging": {"level": "ERROR"},
    }
    path.write_text(yaml.safe_dump(whole | dict(settings)), encoding="utf-8")
    return path


class Served:
    """A running server: a context manager. Questions are asked while no load is on it, so that asking costs nothing."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, core: int | None, *, at: Path = ROOT) -> None:
        """The command prints its URL and then answers questions, as `bench.launch` says; it runs in the folder `at`.

        What it says of errors stands in `folder`, which is made if need be.
        """
        self._name = name
        self._command = command
        self._log = folder / f"{name}.log"
        self._core = core
        self._at = at
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as errors, on_core(self._core):
            self._process = subprocess.Popen(
                self._command, cwd=self._at, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        try:
            self.url = self._line()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def kill(self) -> None:
        """kill -9; the context may be left afterwards as usual."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _stop(self) -> None:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def cpu(self) -> float:
        """Seconds of CPU time that the server has used so far, in all its threads."""
        return float(self._ask("cpu"))

    def memory(self) -> int:
        """Bytes that the server has in memory, after a garbage collection."""
        return int(self._ask("memory"))

    def _ask(self, question: str) -> str:
        if self._process is None or self._process.stdin is None:
            raise BenchFailed("the server does not run")
        try:
            self._process.stdin.write(f"{question}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._line()

    def _line(self) -> str:
        if self._process is None or self._process.stdout is None:
            raise BenchFailed("the server does not run")
        line = self._process.stdout.readline().strip()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> BenchFailed:
        said = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        return BenchFailed(f"the server ({self._name}) ended by itself; it said: {said or 'nothing'}")


def ours(folder: Path, core: int | None = None, *, profile: Path | None = None, **settings: Any) -> Served:
    """The sidecar, which keeps its files in `folder` and takes up those that it finds. `settings` are sections of its YAML."""
    command = [*_LAUNCH, "ours", "--config", str(_write_config(folder, settings))]
    if profile is not None:
        command += ["--profile", str(profile)]
    return Served("ours", command, folder, core)


def bare(folder: Path, core: int | None = None) -> Served:
    """The bare loop."""
    return Served("bare", [*_LAUNCH, "bare"], folder, core)


def bare_redis(folder: Path, core: int | None, url: str) -> Served:
    """The bare loop with its drafts in that Redis."""
    return Served("bare-redis", [*_LAUNCH, "bare-redis", "--redis", url], folder, core)


def hocuspocus(folder: Path, core: int | None, installed: Hocuspocus) -> Served:
    """Hocuspocus, in memory only."""
    return Served("hocuspocus", installed.command("serve"), folder, core, at=installed.folder)
