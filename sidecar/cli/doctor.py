"""`sidecar doctor`: what is wrong, and the line that mends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sidecar.cli.operators import operate
from sidecar.cli.options import AsJson, ConfigFile, load_config
from sidecar.cli.outcome import FAILED
from sidecar.cli.output import printable, say, say_json

Alone = Annotated[
    bool,
    typer.Option(
        "--alone", help="Do not ask the running sidecar: look from here, with this environment's administrators."
    ),
]


def doctor(context: typer.Context, config: ConfigFile = None, alone: Alone = False, as_json: AsJson = False) -> None:
    """Asks every part what is wrong with it, and says what mends it. Exit status 1 where something is an error."""
    read = load_config(context.obj, config)
    answer = operate(read, "doctor", {}, "asking", alone=alone)
    errors = int(answer.result.get("errors", 0))
    if as_json:
        say_json({"ok": not errors, **answer.result, "findings": answer.rows})
    else:
        for row in answer.rows:
            say(_shown(row))
        say(_summed(answer.result) if answer.rows else "all is well")
    if errors:
        raise typer.Exit(FAILED)


def _shown(row: Mapping[str, Any]) -> str:
    return printable(f"{row['severity']}: {row['part']}: {row['says']}") + "\n  " + printable(str(row["remedy"]))


def _summed(result: Mapping[str, Any]) -> str:
    counted = [(int(result.get(f"{kind}s", 0)), kind) for kind in ("error", "warning", "note")]
    return ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counted)
