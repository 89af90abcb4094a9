"""Directus, installed by npm from the lock file here into the cache folder outside the tree (about 870 MB, some minutes, once).

    python -m tests.services.directus.installing

Native parts are compiled for the Node that installs: another Node gets a folder of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.services.cache_folder import cache_folder
from tests.services.programs import Missing

_HERE = Path(__file__).parent
_OLDEST_NODE = 20
_PATIENCE = 1800.0
_RUN = "node_modules/@directus/api/dist/cli/run.js"
_HOW = "Install Node 22 with npm and run: make services."


@dataclass(frozen=True, slots=True)
class Installed:
    """A Directus that can be started."""

    node: str
    folder: Path
    """Where npm put it; what was made with it once and is used again may be kept there too."""
    version: str

    def command(self, *arguments: str) -> list[str]:
        """`directus …`, without the look for a newer version that its own launcher takes first."""
        return [self.node, str(self.folder / _RUN), *arguments]


def find_directus() -> Installed:
    """`SIDECAR_TEST_DIRECTUS` names a folder with another one, else what `make services` has installed. Raises `Missing`."""
    node, told = _node()
    named = os.environ.get("SIDECAR_TEST_DIRECTUS")
    folder = Path(named) if named else _folder(told)
    package = folder / "node_modules/directus/package.json"
    if not package.exists() or not (folder / _RUN).exists():
        raise Missing(f"No Directus in {folder}. {_HOW}")
    return Installed(node, folder, json.loads(package.read_text(encoding="utf-8"))["version"])


def _node() -> tuple[str, str]:
    node = shutil.which("node")
    if node is None:
        raise Missing(f"No node on PATH, which Directus runs on. {_HOW}")
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    found = re.match(r"v(\d+)\.", told)
    if found is None or int(found[1]) < _OLDEST_NODE:
        raise Missing(f"Node {told} is too old for Directus. {_HOW}")
    return node, found[0]


def _folder(node_version: str) -> Path:
    wanted = hashlib.sha256(node_version.encode())
    wanted.update((_HERE / "package-lock.json").read_bytes())
    return cache_folder() / f"directus-{wanted.hexdigest()[:16]}"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One process at a time does what is called so; the others find it done."""
    with (cache_folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def install() -> None:
    """Installs it where it is missing. Raises `Missing` where that cannot be done."""
    try:
        find_directus()
        return
    except Missing:
        if os.environ.get("SIDECAR_TEST_DIRECTUS"):
            raise
    _, told = _node()
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"No npm on PATH, which installs Directus. {_HOW}")
    with alone("directus-install"):
        folder = _folder(told)
        if folder.is_dir():
            return
        print("installing Directus with npm, some minutes and 870 MB, once", file=sys.stderr)
        making = Path(tempfile.mkdtemp(prefix="directus-", dir=cache_folder()))
        try:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(_HERE / name, making)
            _npm(npm, making)
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def _npm(npm: str, folder: Path) -> None:
    # Its packages disagree about the versions of some peers; npm would refuse them all.
    command = [npm, "ci", "--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel", "error"]
    try:
        done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"npm did not install Directus within {_PATIENCE:.0f} s.") from None
    if done.returncode != 0:
        raise Missing(f"npm could not install Directus: {done.stderr.strip()[-300:] or done.returncode}")


if __name__ == "__main__":
    try:
        install()
    except Missing as missing:
        sys.exit(str(missing))
