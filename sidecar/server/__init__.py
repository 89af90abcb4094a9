"""The WebSocket server and what stands beside it over HTTP."""

from sidecar.server.running import run

__all__ = ["run"]
