"""The tests' own Vault, built once from `server/` and `transit/` into the cache folder.

Cold it takes about 480 MiB of Go modules, and four minutes of two cores; 1.4 GB stay in Go's build cache.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.services.cache_folder import cache_folder
from tests.services.programs import Missing

_HERE = Path(__file__).parent
_PROGRAMS = {"server": "vaultd", "transit": "plugins/transit"}
_FLAGS = "-mod=readonly -buildvcs=false -trimpath"


def built_folder() -> Path:
    """Where it is, or will be once it was built. Another source is another folder, so that no work tree takes another's."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()} {_FLAGS}".encode())
    for path in sorted(path for folder in _PROGRAMS for path in (_HERE / folder).iterdir()):
        digest.update(f"\n{path.relative_to(_HERE)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    # Vault takes no plugin folder that is reached by a symbolic link.
    return cache_folder().resolve() / f"vault-{digest.hexdigest()[:16]}"


def is_built() -> bool:
    return built_folder().is_dir()


def build(patience: float = 1500) -> Path:
    """Builds it if need be, and returns its folder. Raises `Missing` where there is no Go, or it cannot be built.

    Only one should build at a time (`make services` sees to it): a second one would do the same work beside it.
    """
    folder = built_folder()
    if folder.is_dir():
        return folder
    go = shutil.which("go")
    if go is None:
        raise Missing("No go on PATH, with which the tests' Vault is built; install Go 1.26 or newer.")
    making = Path(tempfile.mkdtemp(prefix="vault-", dir=cache_folder()))
    try:
        for source, name in _PROGRAMS.items():
            _build(go, source, making / name, patience)
        making.chmod(0o755)
        try:
            making.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another has been faster
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _build(go: str, source: str, path: Path, patience: float) -> None:
    command = [go, "build", "-gcflags=all=-dwarf=false", "-ldflags=-s -w", "-o", str(path), "."]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": _FLAGS}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=_HERE / source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=patience,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"go did not build the tests' Vault within {patience:.0f} s.") from None
    if done.returncode != 0:
        raise Missing(f"go could not build the tests' Vault: {done.stdout.strip()[-1000:] or done.returncode}")
