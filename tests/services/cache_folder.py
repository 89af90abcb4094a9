"""Where downloaded and built needs of the tests are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Outside the tree, shared by all work trees of this user; it is there when this returns."""
    named = os.environ.get("SIDECAR_TEST_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(named) if named else Path(base) / "directus-sync-sidecar"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
