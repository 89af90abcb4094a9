"""A sidecar in a process of its own, as `sidecar serve` runs it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import yaml

from tests.integration.world import until

_psutil: Any = importlib.import_module("psutil")  # it ships no types

_LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))"
_RUN = """
import sys
from sidecar.cli import main
main(sys.argv[1:])
"""


def lives(process: Any) -> bool:
    """Whether a process of `SidecarProcess.workers` still runs."""
    try:
        return bool(process.is_running() and process.status() != _psutil.STATUS_ZOMBIE)
    except _psutil.NoSuchProcess:
        return False


class SidecarProcess:
    """`async with SidecarProcess(folder, limits={…}) as process`: serves until it is left, or told to go.

    With several workers this is their supervisor; what is left of them at the end is killed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        files: int | None = None,
        before: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
        **sections: Any,
    ) -> None:
        """`files`: how many file descriptors it may have. `before`: Python that it runs first.
        `environment`: variables on top of the tests' own."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "process.yaml"
        sections["server"] = {"port": 0, "drain": "1s", **sections.get("server", {})}
        sections.setdefault("logging", {"format": "json"})
        self._sections: dict[str, Any] = {"data_dir": str(folder / "data"), **sections}
        self.write_config()
        self.log = folder / "process.log"
        self.url = ""
        self._environment = dict(environment)
        self._before = before if files is None else f"{_LIMITED.format(files=files)}\n{before}"
        self._process: asyncio.subprocess.Process
        self._seen: set[Any] = set()

    def write_config(self, **sections: Any) -> None:
        """Writes the YAML, with these sections instead of what they were; for the next time that it is read."""
        self._sections |= sections
        self.config.write_text(yaml.safe_dump(self._sections))

    @property
    def pid(self) -> int:
        return self._process.pid

    def workers(self) -> list[Any]:
        """The workers that live, oldest first."""
        if self._process.returncode is not None:
            return []
        found = sorted(_psutil.Process(self.pid).children(), key=lambda each: each.create_time())
        self._seen.update(found)
        return [each for each in found if lives(each)]

    def lines(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    async def __aenter__(self) -> Self:
        await self.start()
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            line = (await self._process.stdout.readline()).decode().strip()
        assert line.startswith("listening on http://"), (line, self.log.read_text())
        self.url = line.removeprefix("listening on ")
        return self

    async def start(self) -> None:
        """Starts it and does not wait until it listens."""
        start = ("-c", self._before + _RUN) if self._before else ("-m", "sidecar")
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *start, "serve", "--config", str(self.config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._variables(),
                start_new_session=True,  # so that a test can send a signal to all of its processes, as a terminal does
            )

    def _variables(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **self._environment}

    async def command(self, *arguments: str) -> Any:
        """What an operators' command answers that is asked of this process, or of whichever of its workers takes it."""
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sidecar", *arguments, "--json", "--config", str(self.config)),
            env=self._variables(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asking.communicate()
        assert asking.returncode == 0, err
        return json.loads(out)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        """Whether the process is there, stopped or not."""
        return self._process.returncode is None

    async def kill(self) -> None:
        """kill -9; returns when it has gone."""
        self._process.kill()
        assert await self.exit() == -signal.SIGKILL
        await self.stop()

    async def pause(self) -> None:
        """SIGSTOP: it does nothing more, and its connections stay. Returns when it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        await until(lambda: _psutil.Process(self.pid).status() == _psutil.STATUS_STOPPED)

    def resume(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def exit(self) -> int:
        """The exit status, once it has gone."""
        # Not `wait`, which also waits for the end of its output: a worker that outlives it would hold that open.
        await until(lambda: self._process.returncode is not None, 40)
        assert self._process.returncode is not None
        return self._process.returncode

    async def output(self) -> str:
        """What else it printed, once it has gone."""
        assert self._process.stdout is not None
        return (await self._process.stdout.read()).decode()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Kills what is left of it."""
        self.workers()
        if self._process.returncode is None:
            self._process.kill()
        for worker in self._seen:
            try:
                worker.kill()  # by its identity: never another process that got its number
            except _psutil.NoSuchProcess:
                pass
        await self._process.communicate()
