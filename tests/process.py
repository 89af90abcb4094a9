"""A sidecar in a process of its own, as `sidecar serve` runs it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, Self

import yaml

_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
from sidecar.cli import main
main(sys.argv[1:])
"""


class SidecarProcess:
    """`async with SidecarProcess(folder, limits={…}) as process`: serves until it is left, or told to go."""

    def __init__(self, folder: Path, *, files: int | None = None, **sections: Any) -> None:
        """`files`: how many file descriptors it may have."""
        self.config = folder / "process.yaml"
        sections["server"] = {"port": 0, "drain": "1s", **sections.get("server", {})}
        sections.setdefault("logging", {"format": "json"})
        self.config.write_text(yaml.safe_dump({"data_dir": str(folder / "data"), **sections}))
        self.log = folder / "process.log"
        self.url = ""
        self._files = files
        self._process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def __aenter__(self) -> Self:
        start = ("-m", "sidecar") if self._files is None else ("-c", _LIMITED.format(files=self._files))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, *start, "serve", "--config", str(self.config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(30):
            line = (await self._process.stdout.readline()).decode().strip()
        assert line.startswith("listening on http://"), (line, self.log.read_text())
        self.url = line.removeprefix("listening on ")
        return self

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit(self) -> int:
        """The exit status, once it has gone."""
        async with asyncio.timeout(40):
            return await self._process.wait()

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()
