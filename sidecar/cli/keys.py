"""`sidecar keys`: versions of chat keys, and their end."""

from __future__ import annotations

from typing import Any

import typer

from sidecar.cli.operators import Answer, operate
from sidecar.cli.options import AsJson, ChatOption, ConfigFile, UserOption, Yes, confirm, load_config
from sidecar.cli.outcome import CommandFailed
from sidecar.cli.output import say, say_json
from sidecar.config import Config

keys = typer.Typer(help="Versions of chat keys, and their end.", no_args_is_help=True)


@keys.command()
def rotate(
    context: typer.Context,
    chat: ChatOption = None,
    user: UserOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """New key versions, of one chat, one person or everything: new writes use them, old ones still read."""
    read = load_config(context.obj, config)
    answer = operate(read, "keys-rotate", _chosen(read, chat, user), "rotating keys")
    _tell(answer, as_json, f"{answer.result.get('count', 0)} keys have a new version")


@keys.command()
def reseal(
    context: typer.Context,
    chat: ChatOption = None,
    user: UserOption = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Encrypts what is stored again with the newest key versions, and counts what is left."""
    read = load_config(context.obj, config)
    answer = operate(read, "keys-reseal", _chosen(read, chat, user), "resealing chats")
    left = answer.result.get("left", 0)
    _tell(answer, as_json, f"{answer.result.get('count', 0)} chats resealed, {left} left")


@keys.command()
def destroy(
    context: typer.Context,
    chat: ChatOption = None,
    user: UserOption = None,
    config: ConfigFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Destroys the key of a chat: the chat is deleted, and every copy of it is closed for good."""
    if not chat:
        raise CommandFailed("nothing says which chat is meant", "give --chat ID; `users erase` erases a whole person")
    read = load_config(context.obj, config)
    confirm(f"Destroy the key of the chat {chat}? Nobody can ever read it again.", yes)
    answer = operate(read, "keys-destroy", _chosen(read, chat, user), "destroying")
    _tell(answer, as_json, f"the chat {chat} is deleted and its key destroyed")


@keys.command()
def prune(
    context: typer.Context,
    chat: ChatOption = None,
    user: UserOption = None,
    config: ConfigFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drops the keys of drafts that never became chats and that nobody holds any more."""
    read = load_config(context.obj, config)
    confirm(
        "Drop the keys of drafts that never became chats? A device that still holds one brings it back under a new key.",
        yes,
    )
    answer = operate(read, "keys-prune", _chosen(read, chat, user), "pruning keys")
    _tell(answer, as_json, f"{answer.result.get('count', 0)} keys dropped")


def _chosen(config: Config, chat: str | None, user: str | None) -> dict[str, Any]:
    return {"chat": chat, "user": config.user_hash(user) if user else None}


def _tell(answer: Answer, as_json: bool, done: str) -> None:
    if as_json:
        say_json(answer.result)
    else:
        say(done)
