"""`sidecar`: what runs it, what looks at its configuration, and the tree of the operators' commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sidecar import logs
from sidecar.cli.bootstrap import bootstrap
from sidecar.cli.dead_letters import dead_letters
from sidecar.cli.doctor import doctor
from sidecar.cli.keys import keys
from sidecar.cli.operators import Answer, ask_running, operate
from sidecar.cli.options import AsJson, ConfigFile, Yes, confirm, load_config, mention_notices
from sidecar.cli.outcome import Run, told
from sidecar.cli.output import say, say_json, say_rows
from sidecar.cli.users import users
from sidecar.config import Config, json_schema
from sidecar.config.printing import as_json, as_yaml
from sidecar.errors import ConfigError
from sidecar.version import __version__


class Commands(TyperGroup):
    """Every command runs within `told`, so that none ends with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        run = Run()
        ctx.obj = run
        with told(run):
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    name="sidecar",
    help="Keeps a person's chats and unsent drafts the same on all devices, beside Directus.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(keys, name="keys")
app.add_typer(users, name="users")
app.command()(bootstrap)
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console entry point; ends the process with the command's exit status."""
    app(args=None if arguments is None else list(arguments), prog_name="sidecar")


def _version(asked: bool) -> None:
    if asked:
        say(f"sidecar {__version__}")
        raise typer.Exit


@app.callback()
def sidecar(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    context: typer.Context,
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option("--host", metavar="HOST", help="Instead of server.host.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", help="Instead of server.port; 0 takes any free one.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", help="Instead of server.workers.")] = None,
) -> None:
    """Runs the sidecar until SIGTERM or SIGINT. With several workers SIGHUP reads the configuration anew and replaces them one by one."""

    def read() -> Config:
        found = load_config(context.obj, config, {"--host": host, "--port": port, "--workers": workers})
        logs.configure(found.logging.level, found.logging.format, redact=found.redact)
        mention_notices(found)
        return found

    first = read()
    logs.guard_process()
    from sidecar.server import run  # noqa: PLC0415 - the other commands do without it

    raise typer.Exit(run(first, lambda address: say(f"listening on {address}"), read))


@app.command()
def check(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Reads and validates everything, the plugins' options too; opens nothing."""
    try:
        read = load_config(context.obj, config)
        loaded = _load(read)
    except ConfigError as error:
        if not as_json:
            raise
        redact = context.obj.redact
        problems = [
            {
                "path": problem.path,
                "source": problem.source,
                "line": problem.line,
                "message": redact(problem.message),
                "remedy": redact(problem.remedy),
            }
            for problem in error.problems
        ]
        say_json({"ok": False, "problems": problems})
        raise typer.Exit(2) from None
    mention_notices(read)
    names = [plugin.name for plugin in loaded.describe()]
    if as_json:
        say_json({"ok": True, "file": str(read.file) if read.file else None, "plugins": names})
    else:
        say(f"{read.file or 'the embedded defaults'}: all is well ({len(names)} plugins: {', '.join(names)})")


@app.command("config")
def show_config(context: typer.Context, config: ConfigFile = None, as_json_: AsJson = False) -> None:
    """Prints the effective configuration, redacted, each value with its source."""
    read = load_config(context.obj, config)
    mention_notices(read)
    if as_json_:
        say_json(as_json(read))
    else:
        say(as_yaml(read).rstrip("\n"))


@app.command()
def schema(config: Annotated[str | None, typer.Option("--config", hidden=True)] = None) -> None:
    """Prints the JSON Schema of the YAML, for editors."""
    say_json(json_schema())


@app.command()
def asyncapi(config: Annotated[str | None, typer.Option("--config", hidden=True)] = None) -> None:
    """Prints the wire protocol as AsyncAPI 3."""
    from sidecar.frames.asyncapi import document  # noqa: PLC0415 - the other commands do without it

    say_json(document())


plugins = typer.Typer(help="What is loaded, with hooks, grants, slots and positions in the outbox.")
app.add_typer(plugins, name="plugins")


@plugins.callback(invoke_without_command=True)
def list_plugins(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """What is loaded, its hooks in order, its grants, its slot, its position in the outbox while the sidecar runs."""
    if context.invoked_subcommand is not None:
        return
    read = load_config(context.obj, config)
    described = _load(read).describe()
    running = ask_running(read, "plugins-positions", {})
    positions = {str(row["name"]): row for row in running.rows} if running else {}
    rows: list[dict[str, Any]] = []
    for plugin in described:
        position = positions.pop(plugin.name, None)
        rows.append(
            {
                "name": plugin.name,
                "use": plugin.use,
                "slot": plugin.slot,
                "hooks": list(plugin.hooks),
                "grants": list(plugin.grants),
                **_position(position),
            }
        )
    for name, position in positions.items():
        rows.append({"name": name, "use": None, "slot": None, "hooks": [], "grants": [], **_position(position)})
    if as_json:
        say_json({"running": running is not None, "plugins": rows})
        return
    say_rows(rows, "nothing is loaded")
    gone = [name for name in positions if name]
    if gone:
        say(f"no longer loaded: {', '.join(gone)}; `sidecar plugins forget NAME` drops what waits for one")


def _position(position: dict[str, Any] | None) -> dict[str, Any]:
    return {key: position.get(key) if position else None for key in ("pending", "parked", "oldest")}


@plugins.command()
def forget(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A plugin that has gone from the YAML.")],
    config: ConfigFile = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Drops the position of a plugin that has gone, with everything that waits for it."""
    read = load_config(context.obj, config)
    loaded = {entry.known_as for entry in read.plugin_entries()}
    if name in loaded:
        raise typer.BadParameter(f"{name} is still in the configuration; take it out first", param_hint="NAME")
    confirm(f"Drop the position of {name}, and everything that waits for it?", yes)
    answer = operate(read, "plugins-forget", {"name": name}, "forgetting")
    _say_result(answer, as_json, f"the position of {name} is dropped")


def _say_result(answer: Answer, as_json: bool, done: str) -> None:
    if as_json:
        say_json(answer.result)
    else:
        say(done)


def _load(config: Config) -> Any:
    from sidecar.plugins_loading import load  # noqa: PLC0415 - imports whatever the YAML lists

    try:
        return load(config.plugin_entries(), config.surroundings(), config.search_paths)
    except ConfigError as error:
        raise ConfigError([config.locate(problem) for problem in error.problems]) from None
