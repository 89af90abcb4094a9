"""Hocuspocus and Node on this machine: installed by npm from the lock file here, outside the tree."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.missing import Missing
from tests.services.cache_folder import cache_folder

_HERE = Path(__file__).parent
_OLDEST = 20
_PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Hocuspocus:
    """What is installed."""

    node: str
    folder: Path
    """Where npm put it."""
    versions: str
    """For the table's head."""

    def command(self, script: str, *arguments: str) -> Sequence[str]:
        """Runs that script of this folder; with `folder` as working folder, so that it finds the packages."""
        text = (_HERE / f"{script}.mjs").read_text(encoding="utf-8")
        return [self.node, "--input-type=module", "--eval", text, "--", *arguments]


def find() -> Hocuspocus:
    """Installs it if need be; raises `Missing`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise Missing(f"no {'node' if node is None else 'npm'} on PATH; install Node {_OLDEST} or newer")
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    found = re.match(r"v(\d+)\.", told)
    if found is None or int(found[1]) < _OLDEST:
        raise Missing(f"Node {told} is too old; install Node {_OLDEST} or newer")
    folder = _install(npm)
    package = json.loads((folder / "node_modules/@hocuspocus/server/package.json").read_text(encoding="utf-8"))
    return Hocuspocus(node, folder, f"Hocuspocus {package['version']} on Node {told}")


def _install(npm: str) -> Path:
    lock = (_HERE / "package-lock.json").read_bytes()
    cache = cache_folder()
    folder = cache / f"hocuspocus-{hashlib.sha256(lock).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    making = Path(tempfile.mkdtemp(prefix="hocuspocus-", dir=cache))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(_HERE / name, making)
        _npm(npm, making)
        try:
            making.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run has been faster
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _npm(npm: str, folder: Path) -> None:
    # No scripts: none of these packages needs one.
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    try:
        done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise Missing(f"npm did not install Hocuspocus within {_PATIENCE:.0f} s") from None
    if done.returncode != 0:
        raise Missing(f"npm could not install Hocuspocus: {done.stderr.strip()[-300:] or done.returncode}")
