"""A real PostgreSQL of the tests' own. It refuses to run as root: root starts it as `nobody`."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

from tests.services.ports import HOST, ReservedPort
from tests.services.process import ServiceProcess
from tests.services.programs import find_postgres

_NOBODY = 65534
_USER = "directus"
_SETTINGS = {"fsync": "on", "unix_socket_directories": "", "listen_addresses": HOST, "max_connections": "60"}


class PostgresServer:
    """`async with PostgresServer(folder) as server`: an empty database `directus` on a port of its own; leaving the context kills it."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for its log. The data stand elsewhere, where somebody who is not root can get at them."""
        self.folder = folder
        self._programs = find_postgres()
        self._data: Path
        self._port: ReservedPort
        self._process: ServiceProcess

    @property
    def log(self) -> str:
        return (self.folder / "postgres.log").read_text(errors="replace")

    def for_directus(self) -> dict[str, str]:
        """What a Directus on this database is told."""
        return {
            "DB_CLIENT": "pg",
            "DB_HOST": HOST,
            "DB_PORT": str(self._port.number),
            "DB_DATABASE": "postgres",
            "DB_USER": _USER,
            "DB_PASSWORD": "trusted",
        }

    def _as_somebody(self, *command: str) -> list[str]:
        if os.geteuid() != 0:
            return list(command)
        ids = str(_NOBODY)
        # Not `su`, which would be a process in between and outlive the tests.
        return ["setpriv", f"--reuid={ids}", f"--regid={ids}", "--clear-groups", "--pdeathsig=KILL", *command]

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._data = Path(mkdtemp(prefix="sidecar-postgres-"))
        self._port = ReservedPort()
        try:
            if os.geteuid() == 0:
                os.chown(self._data, _NOBODY, _NOBODY)
            await asyncio.to_thread(self._make)
            settings = [each for name, value in _SETTINGS.items() for each in ("-c", f"{name}={value}")]
            postgres = str(self._programs / "postgres")
            self._process = ServiceProcess(
                self._as_somebody(postgres, "-D", str(self._data), "-p", str(self._port.number), *settings),
                folder=self._data.parent,
                log=self.folder / "postgres.log",
            )
            self._process.start()
            await asyncio.to_thread(self._until_it_answers)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if hasattr(self, "_process") and self._process.running:
            # At once, but in order: its processes share memory. (SIGTERM would wait for those who are connected.)
            self._process.signal(signal.SIGINT)
            await self._process.exited()
        self._port.close()
        await asyncio.to_thread(shutil.rmtree, self._data)

    def _make(self) -> None:
        command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", _USER, "-A", "trust", "-E", "UTF8"]
        done = subprocess.run(
            self._as_somebody(*command, "--no-sync", "--locale=C.UTF-8"),
            check=False,
            cwd=self._data.parent,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def _until_it_answers(self, patience: float = 60) -> None:
        until = time.monotonic() + patience
        command = [str(self._programs / "pg_isready"), "-q", "-h", HOST, "-p", str(self._port.number)]
        while subprocess.run(command, check=False).returncode != 0:
            assert self._process.running, f"PostgreSQL did not start:\n{self.log}"
            assert time.monotonic() < until, f"PostgreSQL did not start:\n{self.log}"
            time.sleep(0.05)
