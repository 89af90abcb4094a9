"""`sidecar dead-letters`: outbox entries that were parked."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sidecar.cli.operators import operate
from sidecar.cli.options import AsJson, ChatOption, ConfigFile, Yes, confirm, load_config
from sidecar.cli.outcome import CommandFailed
from sidecar.cli.output import say, say_json, say_rows

dead_letters = typer.Typer(help="Outbox entries that were parked.", no_args_is_help=True)
PluginOption = Annotated[str | None, typer.Option("--plugin", metavar="NAME", help="Those of one plugin.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@dead_letters.command("list")
def list_(
    context: typer.Context,
    plugin: PluginOption = None,
    chat: ChatOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Lists them, oldest first."""
    read = load_config(context.obj, config)
    answer = operate(read, "dead-letters-list", {"plugin": plugin, "chat": chat}, "reading")
    if as_json:
        say_json(answer.rows)
    else:
        say_rows(answer.rows, "no dead letters")


@dead_letters.command()
def replay(
    context: typer.Context,
    plugin: PluginOption = None,
    chat: ChatOption = None,
    all_: All = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Takes them up again, in order."""
    read = load_config(context.obj, config)
    answer = operate(read, "dead-letters-replay", _chosen(plugin, chat, all_), "replaying")
    if as_json:
        say_json(answer.result)
    else:
        say(f"{answer.result.get('count', 0)} taken up again")


@dead_letters.command()
def drop(
    context: typer.Context,
    plugin: PluginOption = None,
    chat: ChatOption = None,
    all_: All = False,
    config: ConfigFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forgets them: what they would have written is never written."""
    read = load_config(context.obj, config)
    chosen = _chosen(plugin, chat, all_)
    which = " and ".join(
        text
        for text, given in ((f"of {plugin}", plugin), (f"of the chat {chat}", chat), ("all of them", all_))
        if given
    )
    confirm(f"Forget dead letters ({which})? What they would have written is never written.", yes)
    answer = operate(read, "dead-letters-drop", chosen, "dropping")
    if as_json:
        say_json(answer.result)
    else:
        say(f"{answer.result.get('count', 0)} forgotten")


def _chosen(plugin: str | None, chat: str | None, all_: bool) -> dict[str, Any]:
    if not (plugin or chat or all_):
        raise CommandFailed("nothing says which dead letters are meant", "give --plugin, --chat or --all")
    if all_ and (plugin or chat):
        raise CommandFailed("--all and a choice contradict each other", "leave one of them away")
    return {"plugin": plugin, "chat": chat, "all": all_}
