"""A real Vault of the tests' own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.services.local_server import LocalServer
from tests.services.process import ServiceProcess
from tests.services.programs import Missing
from tests.services.vault.audit_pipe import AuditPipe
from tests.services.vault.programs import VaultProgram, find_vault
from tests.services.vault.vault import Told, Vault


class VaultServer(LocalServer, Vault):
    """`async with VaultServer(folder) as vault`: a Vault on a port of its own, unsealed, with a KV v2 engine at `secret/`.

    Started again it is unsealed, and what it keeps in `folder` is there again: all that it had answered, after `kill()` too
    (`kept=False`: all is in memory, and a start begins anew).

    `standby=True` is two of them over one storage, in memory: `url` leads to the active one, and `standby` is where the other
    is, which sends whoever asks to the active one (307), until `failover()`.
    """

    def __init__(self, folder: Path, *, kept: bool = True, standby: bool = False) -> None:
        LocalServer.__init__(self, folder, "vault")
        Vault.__init__(self)
        kept = kept and not standby
        self._two = standby
        self._active = 0
        self._storage = folder / "storage" if kept else None
        self._key = ""
        self._pipes: list[AuditPipe] = []
        self._program: VaultProgram

    # -- where it is ---------------------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        return self._ports[self._active].number

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def standby(self) -> tuple[str, int]:
        """The address of the one that is not active."""
        assert self._two, "this one is alone"
        return self.host, self._ports[1 - self._active].number

    @property
    def storage(self) -> Path:
        """The folder of what it keeps; a copy of it, made while the server is down, is a backup."""
        assert self._storage is not None, "this one keeps nothing"
        return self._storage

    # -- its life ------------------------------------------------------------------------------------------------------

    async def _prepare(self) -> ServiceProcess:
        self._program = find_vault()
        if self._storage is not None:
            self._storage.mkdir(mode=0o700, exist_ok=True)
        ports = [self._reserve_port() for _ in range(2 if self._two else 1)]
        command = self._program.command(self.folder, self.host, self.port, self._storage)
        if self._two:
            if self._program.name != "vaultd":
                raise Missing("Only the tests' own Vault is two in one process: SIDECAR_TEST_VAULT names another.")
            command += ["-standby", f"{self.host}:{ports[1]}"]
        return ServiceProcess(command, folder=self.folder, log=self._log)

    async def __aexit__(self, *_: object) -> None:
        await super().__aexit__()
        self.close()
        while self._pipes:
            self._pipes.pop().close()

    async def start(self, *, unseal: bool = True) -> None:
        """Starts it, the first time or again: same port, and the data that it kept. Returns when it is unsealed.

        `unseal=False` returns when it answers, sealed, or uninitialised where it keeps nothing yet.
        """
        self._sweep()
        self._process.start()
        status = await asyncio.to_thread(self._until_it_answers)
        if not unseal:
            return
        first = not status["initialized"]
        if first:
            made = await asyncio.to_thread(self._call, "PUT", "init", {"secret_shares": 1, "secret_threshold": 1})
            self.close()
            self._key, self.root_token = made["keys"][0], made["root_token"]
            self._undo.clear()
        await self.unseal()
        if first:
            await self._register_plugins()
            await self.mount_kv(self.mount)
        if self._two:
            await self._unseal_standby()

    def _sweep(self) -> None:
        """A Vault that was killed while it wrote leaves the file that it was about to rename, still empty. Its file storage, which
        is for development, takes that for an entry, and answers every LIST beside it with 500."""
        for path in self._storage.rglob("*") if self._storage is not None else ():
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()

    # -- the seal ------------------------------------------------------------------------------------------------------

    async def seal(self) -> None:
        """It answers 503 to everything, until `unseal()`."""
        await self.write("sys/seal")

    async def unseal(self) -> None:
        """Returns when it serves."""
        await asyncio.to_thread(self._call, "PUT", "unseal", {"key": self._key})
        await asyncio.to_thread(self._until_active)

    async def failover(self) -> None:
        """The active one goes, and the standby takes over; returns when it serves. What was active is the standby then."""
        await self.seal()
        self.close()
        self._active = 1 - self._active
        await asyncio.to_thread(self._until_active)
        await self._unseal_standby()

    async def _unseal_standby(self) -> None:
        at = "http://{}:{}".format(*self.standby)
        await asyncio.to_thread(self._call, "PUT", "unseal", {"key": self._key}, at)

    async def sealed(self) -> bool:
        status = await asyncio.to_thread(self._call, "GET", "seal-status")
        return bool(status["sealed"])

    # -- its audit devices ---------------------------------------------------------------------------------------------

    @property
    def audit_file(self) -> Path:
        """Where `audit()` has it write."""
        return self.folder / "audit.log"

    async def audit(self) -> Path:
        """Enables a file audit device; its file, in which a line is a request or an answer."""
        await self.write("sys/audit/file", type="file", options={"file_path": str(self.audit_file)})
        return self.audit_file

    def audited(self) -> list[Told]:
        """What the audit file holds."""
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]

    async def audit_to_pipe(self) -> AuditPipe:
        """Enables an audit device that can be blocked: Vault answers nobody before it has written."""
        pipe = AuditPipe(self.folder / f"audit-{len(self._pipes)}.pipe")
        self._pipes.append(pipe)
        await self.write(
            f"sys/audit/pipe-{len(self._pipes)}", type="file", options={"file_path": str(pipe.path), "mode": "0600"}
        )
        return pipe

    # -- before there is a token ---------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, data: Told | None = None, at: str | None = None) -> Told:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{at or self.url}/v1/sys/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            told: Told = json.loads(answer.read() or b"{}")
            return told

    def _until_it_answers(self, patience: float = 60) -> Told:
        until = time.monotonic() + patience
        while True:
            try:
                return self._call("GET", "seal-status")
            except (OSError, ValueError) as error:
                if not self.running or time.monotonic() > until:
                    raise AssertionError(f"Vault did not start: {error}\n{self.log}") from error
            time.sleep(0.005)

    def _until_active(self, patience: float = 30) -> None:
        """Unsealed it is a standby for a moment."""
        until = time.monotonic() + patience
        while True:
            try:
                self._call("GET", "health")
                return
            except urllib.error.HTTPError as error:
                error.close()
                if time.monotonic() > until:
                    raise AssertionError(f"Vault did not become active: {error}\n{self.log}") from error
            time.sleep(0.005)

    async def _register_plugins(self) -> None:
        for path in self._program.plugins.iterdir() if self._program.plugins else ():
            digest = hashlib.sha256(await asyncio.to_thread(path.read_bytes)).hexdigest()
            await self.write(f"sys/plugins/catalog/secret/{path.name}", sha256=digest, command=path.name)
