"""What a worker is told at its birth: its number, and what it shares with the others."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from sidecar.config import Config
from sidecar.server.line import Line


@dataclass(frozen=True, slots=True)
class Assignment:
    number: int
    """From 1. Whoever takes a dead worker's place has its number."""
    starts: int
    """How often this number was started, this time included."""
    config: Config
    port: int
    metrics_port: int | None
    operators: socket.socket
    """The operators' socket: all workers accept from it."""
    line: Line


def socket_of(config: Config, number: int) -> Path:
    """Where a worker answers the other workers of this host."""
    return config.data_dir / f"worker-{number}.sock"
