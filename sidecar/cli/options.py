"""The options that commands share, and the configuration that they name."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sidecar import logs
from sidecar.cli.outcome import CommandFailed, Run
from sidecar.cli.output import complain
from sidecar.config import Config, read

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The YAML file; without it ./sidecar.yaml, else the embedded defaults."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
ChatOption = Annotated[str | None, typer.Option("--chat", metavar="ID", help="One chat, by its full id.")]
UserOption = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="One person: a user id, or its hash of 64 hex digits.")
]


def load_config(run: Run, file: Path | None, flags: Mapping[str, Any] | None = None) -> Config:
    """Reads the configuration; from now on its secrets are taken out of what this run complains."""
    config = read(file, flags=flags)
    run.redact = config.redact
    logs.configure("WARNING", config.logging.format, redact=config.redact)
    return config


def mention_notices(config: Config) -> None:
    for notice in config.notices:
        complain(f"note: {notice}")


def on_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def confirm(question: str, yes: bool) -> None:
    """Asks on a terminal; elsewhere only `--yes` will do. Raises `CommandFailed` unless the answer is yes."""
    if yes:
        return
    if not on_terminal():
        raise CommandFailed("this destroys something, and there is no terminal to ask on", "give --yes if it is meant")
    if not typer.confirm(question, err=True):
        raise CommandFailed("nothing was done", "")
