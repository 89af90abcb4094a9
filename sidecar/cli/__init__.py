"""The command line: `sidecar serve`, `sidecar check` and the operators' commands (`docs/configuration.md` *Commands*)."""

from sidecar.cli.commands import app, main

__all__ = ["app", "main"]
