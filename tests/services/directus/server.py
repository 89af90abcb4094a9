"""A real Directus of the tests' own, on a port, a database and files of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests.services.directus.installing import Installed, alone, find_directus
from tests.services.local_server import LocalServer
from tests.services.process import ServiceProcess

ADMIN_EMAIL = "admin@example.com"
ADMIN_PASSWORD = "a password for tests"
ADMIN_TOKEN = "admin-token-of-the-tests"
SECRET = "a secret of the tests of more than 32 characters"

_UNLESS_TOLD = {
    "SECRET": SECRET,
    "ADMIN_EMAIL": ADMIN_EMAIL,
    "ADMIN_PASSWORD": ADMIN_PASSWORD,
    "ADMIN_TOKEN": ADMIN_TOKEN,
    "WEBSOCKETS_ENABLED": "true",
    "TELEMETRY": "false",
    "LOG_LEVEL": "warn",
    "LOG_STYLE": "raw",
    "LOGIN_STALL_TIME": "10",
    "CACHE_ENABLED": "false",
    "RATE_LIMITER_ENABLED": "false",
    # On two shared cores the loop of a Directus that has just started is busy for others' sake; a test of this limit sets it.
    "PRESSURE_LIMITER_ENABLED": "false",
}


def _environment(values: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    return {**kept, "NODE_NO_WARNINGS": "1", **values}


class DirectusServer(LocalServer):
    """`async with DirectusServer(folder, RATE_LIMITER_ENABLED="true") as server`: a Directus with an admin and no collections.

    Any variable of its environment is an argument. The database is a fresh SQLite file, unless `DB_CLIENT` says otherwise.
    """

    def __init__(self, folder: Path, *, under: Sequence[str] = (), **environment: str) -> None:
        """`under`: a command that runs the server, with its arguments; the pid must stay the server's."""
        super().__init__(folder, "directus")
        self._under = list(under)
        self._given = environment

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "data.db"

    # -- its life ------------------------------------------------------------------------------------------------------

    def environment(self, **more: str) -> dict[str, str]:
        """All that it is told."""
        own = {
            **_UNLESS_TOLD,
            "HOST": self.host,
            "PORT": str(self.port),
            "PUBLIC_URL": self.url,
            "EXTENSIONS_PATH": str(self.folder / "extensions"),
            "STORAGE_LOCAL_ROOT": str(self.folder / "uploads"),
        }
        if "DB_CLIENT" not in self._given:
            own |= {"DB_CLIENT": "sqlite3", "DB_FILENAME": str(self.database)}
        return _environment({**own, **self._given, **more})

    async def _prepare(self) -> ServiceProcess:
        installed = find_directus()
        for each in ("extensions", "uploads"):
            (self.folder / each).mkdir(exist_ok=True)
        self._reserve_port()
        if "DB_CLIENT" in self._given:
            await asyncio.to_thread(_bootstrap, installed, self.folder, self.environment())
        elif not self.database.exists():
            shutil.copy(await asyncio.to_thread(_template, installed), self.database)
        command = [*self._under, *installed.command("start")]
        return ServiceProcess(command, folder=self.folder, log=self._log, environment=self.environment())

    async def start(self, *, wait: bool = True, **environment: str) -> None:
        """Starts it, the first time or again: same port, and its data. Returns when it answers. `environment`: changed from now on."""
        self._given |= environment
        self._process.environment = self.environment()
        self._process.start()
        if wait:
            await asyncio.to_thread(self._until_it_answers)

    def _until_it_answers(self, patience: float = 110) -> None:
        until = time.monotonic() + patience
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/server/ping", timeout=5) as answer:
                    if answer.read() == b"pong":
                        return
            except (urllib.error.URLError, OSError):
                pass
            if not self.running or time.monotonic() > until:
                raise AssertionError(f"Directus did not start:\n{self.log[-4000:]}")
            time.sleep(0.05)

    async def restart(self, **environment: str) -> None:
        """An orderly stop, and a start, with these variables changed."""
        await self.stop()
        await self.start(wait=True, **environment)

    # -- talking to it -------------------------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, body: object = None, *, token: str | None = ADMIN_TOKEN) -> Any:
        """What it answers an admin (or whoever holds `token`; None: anybody): `data` of the answer, None for none. A refusal is an AssertionError."""
        status, answer = await self.attempt(method, path, body, token=token)
        assert status < 300, f"{method} {path}: {status} {json.dumps(answer)[:2000]}"
        return answer.get("data") if isinstance(answer, dict) else answer

    async def attempt(
        self, method: str, path: str, body: object = None, *, token: str | None = ADMIN_TOKEN
    ) -> tuple[int, Any]:
        """Status and JSON of one call, over a connection of its own."""
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session,
            session.request(method, f"{self.url}{path}", json=body, headers=headers) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def log_in(self, email: str, password: str, **more: str) -> dict[str, Any]:
        """The answer to a login: `access_token`, `refresh_token`, `expires`."""
        answer: dict[str, Any] = await self.ask(
            "POST", "/auth/login", {"email": email, "password": password, **more}, token=None
        )
        return answer


def _template(installed: Installed) -> Path:
    """An SQLite file with Directus' own tables and an admin, made once for each Directus and what it is told at first."""
    told = json.dumps(_UNLESS_TOLD, sort_keys=True).encode()
    path = installed.folder / f"template-{hashlib.sha256(told).hexdigest()[:16]}.db"
    with alone("directus-template"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=installed.folder) as folder:
                made = Path(folder) / "data.db"
                environment = {**_UNLESS_TOLD, "DB_CLIENT": "sqlite3", "DB_FILENAME": str(made)}
                _bootstrap(installed, Path(folder), _environment(environment))
                made.rename(path)
    return path


def _bootstrap(installed: Installed, folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        installed.command("bootstrap"),
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        raise AssertionError(f"directus bootstrap: {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")


if __name__ == "__main__":  # one to look at by hand: python -m tests.services.directus.server

    async def _main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with DirectusServer(Path(folder), **dict(each.split("=", 1) for each in sys.argv[1:])) as server:
                print(
                    f"{server.url}  {ADMIN_EMAIL} / {ADMIN_PASSWORD}, token {ADMIN_TOKEN}; Ctrl-C ends it", flush=True
                )
                await asyncio.Event().wait()

    try:
        asyncio.run(_main())
    except KeyboardInterrupt:
        pass
