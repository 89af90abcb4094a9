"""What the use cases need of the configuration, in the units that they work in. Times in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.changes import Limits
from sidecar.documents import DocumentLimits


@dataclass(frozen=True, slots=True)
class Settings:
    pepper: str | None = field(default=None, repr=False)
    documents: DocumentLimits = field(default_factory=DocumentLimits)
    message_bytes: int = 128 * 1024
    title_length: int = 500
    cache: Limits = field(default_factory=Limits)
    sync_recent: int = 20
    sync_total: int = 1000
    sync_frame: int = 1024 * 1024
    devices: int = 10
    """Devices that a person may have; the one unused for longest goes first."""
    references_kept: int = 50_000
    """Key references kept in process memory; they never change while their chat lives."""
