"""What the workers of one host share, held by their supervisor for as long as it runs: the ports and the operators' socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sidecar.config import Config
from sidecar.errors import StartRefused
from sidecar.opening_parts import make_data_dir
from sidecar.server.assignment import socket_of
from sidecar.server.listening import reserve, url_of
from sidecar.server.operators import unix_listener


@dataclass(frozen=True, slots=True)
class Premises:
    url: str
    port: int
    metrics_port: int | None
    operators: socket.socket


@contextmanager
def premises(config: Config) -> Iterator[Premises]:
    """Takes them, or raises `StartRefused`. In a forked worker leaving gives back only the worker's own hold on the ports."""
    if not hasattr(os, "fork") or not hasattr(socket, "SO_REUSEPORT"):
        raise StartRefused("server", "several workers cannot share a port on this system; write server.workers: 1")
    server = config.server
    make_data_dir(config)
    with ExitStack() as stack:
        port = stack.enter_context(reserve(server.host, server.port))
        metrics = None
        if server.metrics_port is not None:
            metrics = stack.enter_context(reserve(server.host, server.metrics_port))
        operators = stack.enter_context(unix_listener(config.socket_path))
        stack.callback(_tidy, config, os.getpid())
        yield Premises(
            url=url_of(port),
            port=port.getsockname()[1],
            metrics_port=metrics.getsockname()[1] if metrics is not None else None,
            operators=operators,
        )


def _tidy(config: Config, owner: int) -> None:
    if os.getpid() == owner:
        for number in range(1, config.server.workers + 1):
            socket_of(config, number).unlink(missing_ok=True)  # left by a worker that was killed
