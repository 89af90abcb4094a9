"""A server in a process of its own, as the bench sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import yaml

from bench.pair import BenchFailed

ROOT = Path(__file__).parents[1]
Kind = Literal["ours", "bare"]


def write_config(folder: Path, **sections: Any) -> Path:
    """The embedded sidecar with its files in `folder`, any free port, and limits per socket, address and person out of the way."""
    path = folder / "sidecar.yaml"
    settings: dict[str, Any] = {
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
    path.write_text(yaml.safe_dump(settings | sections), encoding="utf-8")
    return path


class Served:
    """A running server: a context manager. Questions are asked while no load is on it, so that asking costs nothing."""

    def __init__(self, kind: Kind, folder: Path, *, core: int | None = None, profile: Path | None = None) -> None:
        """`folder` is made if need be; the sidecar keeps its files there and takes up those that it finds."""
        self._kind = kind
        self._folder = folder
        self._core = core
        self._profile = profile
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bench.launch", self._kind]
        if self._kind == "ours":
            command += ["--config", str(write_config(self._folder))]
        if self._core is not None:
            command += ["--core", str(self._core)]
        if self._profile is not None:
            command += ["--profile", str(self._profile)]
        with (self._folder / f"{self._kind}.log").open("ab") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
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
        said = (self._folder / f"{self._kind}.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        return BenchFailed(f"the server ({self._kind}) ended by itself; it said: {said or 'nothing'}")
