"""The cache folder: what the tests need and what takes long to get, outside the tree."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where downloaded and built needs of the tests are kept: outside the tree, shared by all work trees of this user."""
    named = os.environ.get("SIDECAR_TEST_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(named) if named else Path(base) / "directus-sync-sidecar"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
