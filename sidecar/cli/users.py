"""`sidecar users`: operators' work on one person."""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.operators import operate
from sidecar.cli.options import AsJson, ConfigFile, Yes, confirm, load_config
from sidecar.cli.output import say, say_json, say_rows

users = typer.Typer(help="Operators' work on one person.", no_args_is_help=True)
User = Annotated[str, typer.Option("--user", metavar="USER", help="A user id, or its hash of 64 hex digits.")]


@users.command()
def devices(context: typer.Context, user: User, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Lists the person's devices."""
    read = load_config(context.obj, config)
    answer = operate(read, "users-devices", {"user": read.user_hash(user)}, "reading")
    if as_json:
        say_json(answer.rows)
    else:
        say_rows(answer.rows, "no devices")


@users.command()
def disconnect(context: typer.Context, user: User, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Closes the person's sockets; the devices may come back."""
    read = load_config(context.obj, config)
    answer = operate(read, "users-disconnect", {"user": read.user_hash(user)}, "disconnecting")
    if as_json:
        say_json(answer.result)
    else:
        left = answer.result.get("left", 0)
        say(f"{answer.result.get('count', 0)} sockets closed{f', {left} left' if left else ''}")


@users.command()
def erase(
    context: typer.Context, user: User, config: ConfigFile = None, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Erases everything of the person: sockets, cache, outbox, store, devices, keys and their marks."""
    read = load_config(context.obj, config)
    confirm(f"Erase everything of the person {user}? Nothing of it can be brought back.", yes)
    answer = operate(read, "users-erase", {"user": read.user_hash(user)}, "erasing")
    if as_json:
        say_json(answer.result)
    else:
        if answer.result.get("done", True):
            say("everything of this person is erased")
        else:
            say("erased here; the store has not answered yet, and erases its part when it does")
