"""`sidecar bootstrap`: what the plugins need, made where it is missing."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sidecar.cli.options import AsJson, ConfigFile, load_config
from sidecar.cli.outcome import FAILED
from sidecar.cli.output import complain, printable, say, say_json

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be made, and make nothing.")]


def bootstrap(
    context: typer.Context, dry_run: DryRun = False, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Every plugin makes what it needs where it is missing; what is there stays as it is. Can be run again at any time."""
    read = load_config(context.obj, config)
    from sidecar.operations.bootstrapping import bootstrap as carry_out  # noqa: PLC0415 - the other commands do without

    made = asyncio.run(carry_out(read, dry_run=dry_run))
    failed = [each for each in made if each.error is not None]
    if as_json:
        plugins = [
            {
                "name": each.plugin,
                "steps": [read.redact(step) for step in each.steps],
                "error": read.redact(each.error) if each.error is not None else None,
            }
            for each in made
        ]
        say_json({"ok": not failed, "dry_run": dry_run, "plugins": plugins})
    else:
        for each in made:
            for step in each.steps:
                say(printable(f"{each.plugin}: {read.redact(step)}"))
        if not failed and not any(each.steps for each in made):
            say("nothing is missing")
    for each in failed:
        complain(f"sidecar: {each.plugin}: {read.redact(each.error or '')}")
    if failed:
        raise typer.Exit(FAILED)
