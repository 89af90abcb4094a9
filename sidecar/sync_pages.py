"""What the plugins answered to one `on_sync`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.records import ChatInDB, Page


@dataclass(frozen=True, slots=True)
class SyncAnswer:
    pages: Mapping[str, Page[ChatInDB]]
    """By plugin; the persistence slot's is called `persistence`, the cache slot's `cache`."""
    failed: tuple[str, ...]
    """Plugins that failed; never the persistence slot, whose failure is an error."""
