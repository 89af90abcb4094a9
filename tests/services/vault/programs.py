"""Which program serves as Vault, and how it is told what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.services.programs import Missing
from tests.services.vault.building import built_folder

_HOW = (
    "Have it built (make services; it takes Go 1.26 and five minutes, once), install `vault` or `bao`, or name one: "
    "SIDECAR_TEST_VAULT=/path/to/vault."
)


@dataclass(frozen=True, slots=True)
class VaultProgram:
    """A server's program. However it is started, it waits to be initialised and unsealed."""

    path: str
    name: str
    """`vaultd` is the tests' own."""
    version: str = ""
    plugins: Path | None = None
    """A folder of plugins that must be registered before they can be mounted; None: all is built in."""

    @property
    def description(self) -> str:
        return f"{self.name} {self.version}: {self.path}"

    def command(self, folder: Path, host: str, port: int, storage: Path | None) -> list[str]:
        """What starts it; `folder` is for its configuration. Without `storage` it keeps everything in memory."""
        if self.name == "vaultd":
            kept = ["-storage", str(storage)] if storage else []
            plugins = ["-plugin-dir", str(self.plugins)] if self.plugins else []
            return [self.path, "-bare", "-address", f"{host}:{port}", *kept, *plugins]
        path = folder / "vault.json"
        path.write_text(json.dumps(self._configuration(f"{host}:{port}", storage)))
        return [self.path, "server", f"-config={path}"]

    def _configuration(self, address: str, storage: Path | None) -> dict[str, object]:
        made: dict[str, object] = {
            "listener": {"tcp": {"address": address, "tls_disable": True}},
            "storage": {"file": {"path": str(storage / "data")}} if storage else {"inmem": {}},
            "api_addr": f"http://{address}",
            "disable_mlock": True,
            "log_level": "warn",
        }
        if self.name == "bao":
            made["unsafe_allow_api_audit_creation"] = True
        return made


def find_vault() -> VaultProgram:
    """`SIDECAR_TEST_VAULT`, else `vault` or `bao` on PATH, else the one that was built here. Raises `Missing`."""
    named = os.environ.get("SIDECAR_TEST_VAULT")
    path = shutil.which(named) if named else shutil.which("vault") or shutil.which("bao")
    if path is not None:
        return _installed(path)
    if named:
        raise Missing(f"There is no program {named}. {_HOW}")
    folder = built_folder()
    if not folder.is_dir():
        raise Missing(f"No Vault here: none on PATH, none built. {_HOW}")
    return VaultProgram(str(folder / "vaultd"), "vaultd", folder.name, folder / "plugins")


def _installed(path: str) -> VaultProgram:
    told = subprocess.run([path, "version"], capture_output=True, text=True, check=False, timeout=30).stdout
    found = re.match(r"(Vault|OpenBao) v(\S+)", told)
    if found is None:
        raise Missing(f"{path} version says {told[:80]!r}, which is no Vault and no OpenBao. {_HOW}")
    return VaultProgram(path, {"Vault": "vault", "OpenBao": "bao"}[found[1]], found[2])
