"""The command line: what each command prints, how it ends, and what it asks of a running sidecar."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import web
from typer.testing import CliRunner

from sidecar import logs
from sidecar.cli import app, operators
from sidecar.cli.output import Steps, complain, printable, say_rows
from sidecar.config import Config, read
from sidecar.errors import ConfigError, Problem, StartRefused, Unavailable
from sidecar.ids import hash_user
from sidecar.version import __version__

ROOT = Path(__file__).resolve().parents[2]
BOB = hash_user("bob")

PARTS = """
    from typing import Any
    from pydantic import BaseModel
    from sidecar import ChatInDB, Deleted, Document, MessageInDB, Page, UserHash, hookimpl

    class Auth:
        api = 1
        class Options(BaseModel, extra="forbid"):
            level: int = 1
        def __init__(self, options: Options) -> None:
            if options.level == 7:
                raise ValueError("no")
        @hookimpl
        async def provide_auth(self) -> Any: ...

    class Encryption:
        api = 1
        @hookimpl
        async def provide_encryption(self) -> Any: ...

    class Cache:
        api = 1
        @hookimpl
        async def provide_cache(self) -> Any: ...

    class Store:
        api = 1
        @hookimpl
        async def provide_persistence(self) -> Any: ...
        @hookimpl
        async def on_draft(self, chat: ChatInDB) -> None: ...
        @hookimpl
        async def on_first_message(self, chat: ChatInDB, message: MessageInDB) -> None: ...
        @hookimpl
        async def on_message(self, chat: ChatInDB, message: MessageInDB) -> None: ...
        @hookimpl
        async def on_title(self, chat: ChatInDB) -> None: ...
        @hookimpl
        async def on_chat_deleted(self, chat: Deleted) -> None: ...
        @hookimpl
        async def on_user_erased(self, user: UserHash) -> None: ...
        @hookimpl
        async def on_sync(self, user: UserHash, before: Any, limit: int) -> Page[ChatInDB]: ...

    class Listener:
        api = 1
        @hookimpl
        async def on_draft(self, chat: ChatInDB, plaintext: Document | None) -> None: ...
"""
YAML = """\
auth:
  use: own_parts:Auth
  options:
    level: 3
encryption: {use: own_parts:Encryption}
cache: {use: own_parts:Cache}
persistence: {use: own_parts:Store}
plugins:
  - {use: own_parts:Listener, name: listener, grants: [plaintext]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, no variables of ours, and logging as it was afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("SIDECAR_"):
            monkeypatch.delenv(name)
    root = logging.getLogger()
    level, configured = root.level, structlog.get_config()
    hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)
    yield tmp_path
    for handler in [each for each in root.handlers if isinstance(each, logs.Lines)]:
        root.removeHandler(handler)
    root.setLevel(level)
    structlog.configure(**configured)
    logging.getLogger("aiohttp.access").disabled = False
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks


@pytest.fixture
def own_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `sidecar.yaml` with plugins of a user's own."""
    (folder / "own_parts.py").write_text(textwrap.dedent(PARTS))
    (folder / "sidecar.yaml").write_text(YAML)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    return folder


class Ended:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def sidecar(*arguments: str, typed: str | None = None) -> Ended:
    result = CliRunner().invoke(app, list(arguments), input=typed)
    return Ended(result.exit_code, result.stdout, result.stderr)


def process(*arguments: str, **environment: str) -> Ended:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDECAR_")}
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


# -- the process as a shell sees it ------------------------------------------------------------------------------------


def test_exit_0_of_a_process() -> None:
    done = process("--version")
    assert (done.code, done.out, done.err) == (0, f"sidecar {__version__}\n", "")


def test_exit_2_of_a_process_with_one_line_an_error(folder: Path) -> None:
    (folder / "bad.yaml").write_text("server:\n  prot: 1\n  host: http://x\n")
    done = process("check", "--config", "bad.yaml")
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines() == [
        "bad.yaml:2: server.prot: is no key that exists; did you mean `port`?",
        "bad.yaml:3: server.host: is a URL, not a host; write the name or address alone, such as chat.example.com",
    ]


def test_exit_1_of_a_process_that_cannot_ask() -> None:
    done = process("dead-letters", "drop", "--all")
    assert (done.code, done.out) == (1, "")
    assert (
        done.err == "sidecar: this destroys something, and there is no terminal to ask on; give --yes if it is meant\n"
    )


def test_check_of_the_embedded_file_says_that_all_is_well(folder: Path) -> None:
    done = process("check", "--config", str(ROOT / "config" / "embedded.yaml"))
    assert (done.code, done.err) == (0, "")
    assert "all is well (4 plugins: auth.dev, encryption.local, cache.memory, persistence)" in done.out
    assert list(folder.iterdir()) == [], "check opens nothing"


# -- looking at the configuration --------------------------------------------------------------------------------------


def test_check_of_plugins_of_ones_own(own_parts: Path) -> None:
    before = sorted(own_parts.iterdir())
    done = sidecar("check")
    assert (done.code, done.err) == (0, "")
    assert "5 plugins" in done.out
    assert sidecar("check", "--json").json["plugins"][-1] == "listener"
    assert [each for each in sorted(own_parts.iterdir()) if each.name != "__pycache__"] == before


def test_check_names_the_line_of_a_plugins_option(own_parts: Path) -> None:
    (own_parts / "sidecar.yaml").write_text(YAML.replace("level: 3", "lvel: 3"))
    done = sidecar("check")
    assert done.code == 2
    assert done.err.startswith("sidecar.yaml:4: auth.options.lvel: ")
    assert "level" in done.err
    assert done.err.count("\n") == 1
    problem = sidecar("check", "--json")
    assert problem.code == 2
    assert [(each["path"], each["line"], each["source"]) for each in problem.json["problems"]] == [
        ("auth.options.lvel", 4, "sidecar.yaml")
    ]


def test_check_names_the_variable_of_a_plugins_option(own_parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_AUTH__OPTIONS__LEVEL", "high")
    done = sidecar("check")
    assert done.code == 2
    assert done.err.startswith("SIDECAR_AUTH__OPTIONS__LEVEL: auth.options.level: ")


def test_t40_a_plugin_that_repeats_a_secret_is_redacted(own_parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = types.ModuleType("sidecar.plugins_loading")

    def load(entries: Any, surroundings: Any, search_paths: Any) -> None:
        raise ConfigError([Problem("auth.options.url", "cAnArY-1234 is no URL", "mend cAnArY-1234")])

    loading.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sidecar.plugins_loading", loading)
    monkeypatch.setenv("S", "cAnArY-1234")
    (own_parts / "sidecar.yaml").write_text("auth:\n  use: dev\n  options:\n    url: '${S}'\n")
    for arguments in (("check",), ("check", "--json"), ("plugins",)):
        done = sidecar(*arguments)
        assert done.code == 2
        assert "[redacted] is no URL" in done.out + done.err
        assert "cAnArY" not in done.out + done.err


def test_config_prints_values_with_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECAR_SERVER__PORT", "9000")
    monkeypatch.setenv("SIDECAR_SERVER_HOST", "0.0.0.0")
    done = sidecar("config")
    assert done.code == 0
    assert "  port: 9000  # SIDECAR_SERVER__PORT\n" in done.out
    assert "  demo: true  # embedded default\n" in done.out
    assert "note: SIDECAR_SERVER_HOST" in done.err
    assert sidecar("config", "--json").json["server.port"] == {"value": 9000, "source": "SIDECAR_SERVER__PORT"}
    assert sidecar("config", "--config", "nowhere.yaml").code == 2


def test_schema_and_asyncapi_are_json() -> None:
    assert sidecar("schema").json["properties"]["server"]
    assert sidecar("schema", "--config", "any.yaml").code == 0
    assert sidecar("asyncapi").json["asyncapi"].startswith("3.")


def test_plugins_lists_hooks_grants_slots(own_parts: Path) -> None:
    done = sidecar("plugins", "--json")
    assert done.code == 0
    assert done.json["running"] is False
    rows = {row["name"]: row for row in done.json["plugins"]}
    assert list(rows)[-2:] == ["persistence", "listener"]
    assert rows["listener"] == {
        "name": "listener",
        "use": "own_parts:Listener",
        "slot": None,
        "hooks": ["on_draft"],
        "grants": ["plaintext"],
        "pending": None,
        "parked": None,
        "oldest": None,
    }
    assert rows["persistence"]["slot"] == "persistence"
    assert rows["persistence"]["hooks"][:2] == ["provide_persistence", "on_draft"]
    assert "own_parts:Listener" in sidecar("plugins").out


@pytest.mark.parametrize(
    "arguments", [("nothing",), ("serve", "--port", "x"), ("users", "erase"), ("config", "--colour"), ("keys", "burn")]
)
def test_a_wrong_command_line_is_exit_2(arguments: tuple[str, ...]) -> None:
    done = sidecar(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_every_command_has_help() -> None:
    for arguments in (
        (),
        ("serve",),
        ("plugins", "forget"),
        ("dead-letters", "replay"),
        ("keys", "reseal"),
        ("users", "erase"),
    ):
        done = sidecar(*arguments, "--help")
        assert done.code == 0
        assert "--config" in done.out or not arguments


# -- how commands end --------------------------------------------------------------------------------------------------


def _serve_with(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[Config, Callable[[str], None], Callable[[], Config]], int]
) -> None:
    module = types.ModuleType("sidecar.server")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sidecar.server", module)


def test_serve_hands_the_configuration_on_and_says_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def run(config: Config, ready: Callable[[str], None], reread: Callable[[], Config]) -> int:
        seen.append(config)
        ready(f"http://{config.server.host}:{config.server.port}")
        return 0

    _serve_with(monkeypatch, run)
    done = sidecar("serve", "--port", "9001", "--host", "::1")
    assert (done.code, done.out) == (0, "listening on http://::1:9001\n")
    assert seen[0].place(("server", "port")).source == "--port"
    refused = sidecar("serve", "--port", "70000")
    assert refused.code == 2
    assert refused.err == "--port: server.port: is too large; write a number from 0 to 65535\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StartRefused("persistence", "the file is damaged"), 3, "sidecar: persistence: the file is damaged\n"),
        (Unavailable("cache", "no answer"), 1, "sidecar: cache is unavailable: no answer\n"),
        (ConfigError([Problem("a.b", "is wrong", "mend\nit")]), 2, "configuration: a.b: is wrong; mend it\n"),
        (KeyboardInterrupt(), 130, "sidecar: interrupted\n"),
    ],
)
def test_errors_become_a_status_and_a_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def run(config: Config, ready: Callable[[str], None], reread: Callable[[], Config]) -> int:
        raise error

    _serve_with(monkeypatch, run)
    done = sidecar("serve")
    assert (done.code, done.out, done.err) == (code, "", line)


def test_what_nobody_expected_is_one_line_with_an_incident(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(config: Config, ready: Callable[[str], None], reread: Callable[[], Config]) -> int:
        raise RuntimeError("Geheimnis")

    _serve_with(monkeypatch, run)
    done = sidecar("serve")
    assert done.code == 1
    assert done.err.startswith("sidecar: unexpected RuntimeError at unit/test_cli.py:")
    assert "(incident " in done.err
    assert done.err.count("\n") == 1
    assert "Geheimnis" not in done.err
    monkeypatch.setenv("SIDECAR_DEBUG", "1")
    shown = sidecar("serve")
    assert "Traceback" in shown.err
    assert "RuntimeError: Geheimnis" in shown.err
    assert shown.err.splitlines()[-1].startswith("sidecar: unexpected RuntimeError")


# -- operators' commands -----------------------------------------------------------------------------------------------

Lines = list[dict[str, Any] | bytes]


class Running:
    """A sidecar that answers its operators from a table."""

    def __init__(self) -> None:
        self.answers: dict[str, Lines] = {}
        self.asked: list[tuple[str, Any]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        command = request.match_info["command"]
        self.asked.append((command, await request.json()))
        if command not in self.answers:
            raise web.HTTPNotFound
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for line in self.answers[command]:
                await response.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        except ConnectionError:
            pass  # the command broke off, as it should at a line that is too long
        return response


@contextmanager
def serving(path: Path) -> Iterator[Running]:
    """Commands have their own loop, so the sidecar that they ask has a thread of its own."""
    running, up, stop = Running(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        application = web.Application()
        application.router.add_post("/operate/{command}", running.handle)
        runner = web.AppRunner(application)
        await runner.setup()
        with operators.reachable(path) as name:
            await web.UnixSite(runner, name).start()
            up.set()
            await stop.wait()
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert up.wait(10)
        yield running
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    (folder / "sidecar-data").mkdir()
    with serving(folder / "sidecar-data" / "sidecar.sock") as found:
        yield found


ROWS: Lines = [{"row": {"entry": "1-0", "tries": 8}}, {"row": {"entry": "2-0", "chat": None}}, {"result": {}}]


@pytest.mark.parametrize(
    ("arguments", "command", "body"),
    [
        (("dead-letters", "list"), "dead-letters-list", {"plugin": None, "chat": None}),
        (("dead-letters", "list", "--plugin", "p", "--chat", "c"), "dead-letters-list", {"plugin": "p", "chat": "c"}),
        (("dead-letters", "replay", "--all"), "dead-letters-replay", {"plugin": None, "chat": None, "all": True}),
        (
            ("dead-letters", "drop", "--plugin", "p", "--yes"),
            "dead-letters-drop",
            {"plugin": "p", "chat": None, "all": False},
        ),
        (("keys", "rotate"), "keys-rotate", {"chat": None, "user": None}),
        (("keys", "rotate", "--user", "bob"), "keys-rotate", {"chat": None, "user": BOB}),
        (("keys", "reseal", "--chat", "c"), "keys-reseal", {"chat": "c", "user": None}),
        (("keys", "destroy", "--chat", "c", "--user", "bob", "--yes"), "keys-destroy", {"chat": "c", "user": BOB}),
        (("keys", "prune", "--yes"), "keys-prune", {"chat": None, "user": None}),
        (("users", "devices", "--user", BOB), "users-devices", {"user": BOB}),
        (("users", "disconnect", "--user", "bob"), "users-disconnect", {"user": BOB}),
        (("users", "erase", "--user", "bob", "-y"), "users-erase", {"user": BOB}),
        (("plugins", "forget", "old", "--yes"), "plugins-forget", {"name": "old"}),
    ],
)
def test_an_operators_command_asks_the_running_sidecar(
    running: Running, arguments: tuple[str, ...], command: str, body: Mapping[str, Any]
) -> None:
    running.answers[command] = [{"progress": {"done": 1, "total": 1}}, {"result": {"count": 3, "left": 1}}]
    done = sidecar(*arguments)
    assert done.code == 0, done.err
    assert running.asked == [(command, body)]
    assert command in operators.__doc__ or command.rsplit("-", maxsplit=1)[-1] in operators.__doc__


def test_rows_are_lines_with_tabs_or_json(running: Running) -> None:
    running.answers["dead-letters-list"] = ROWS
    done = sidecar("dead-letters", "list")
    assert done.out == "entry\ttries\tchat\n1-0\t8\t-\n2-0\t-\t-\n"
    assert sidecar("dead-letters", "list", "--json").json == [
        {"entry": "1-0", "tries": 8},
        {"entry": "2-0", "chat": None},
    ]
    running.answers["dead-letters-list"] = [{"result": {}}]
    assert sidecar("dead-letters", "list").out == "no dead letters\n"


def test_progress_is_plain_lines_where_nobody_watches(running: Running) -> None:
    steps: Lines = [{"progress": {"done": done, "total": 100}} for done in range(101)]
    running.answers["keys-reseal"] = [*steps, {"result": {"count": 100, "left": 0}}]
    done = sidecar("keys", "reseal")
    assert done.out == "100 chats resealed, 0 left\n"
    lines = done.err.splitlines()
    assert lines[0] == "resealing chats: 0 of 100"
    assert lines[-1] == "resealing chats: 100 of 100"
    assert len(lines) == 11


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([{"error": {"message": "no such chat", "remedy": "look at the id"}}], "sidecar: no such chat; look at the id"),
        ([{"row": {"a": 1}}], "went away in the middle"),
        ([b"<html>\n"], "is no answer"),
        ([b"[1]\n"], "is no answer"),
        ([b"x" * 2_000_000], "too long"),
        (None, "answered 404"),
    ],
)
def test_an_operators_command_that_fails_is_exit_1(running: Running, answer: Lines | None, words: str) -> None:
    if answer is not None:
        running.answers["keys-rotate"] = answer
    done = sidecar("keys", "rotate")
    assert done.code == 1
    assert words in done.err
    assert done.err.count("\n") == 1


def test_positions_come_from_the_running_sidecar(own_parts: Path, running: Running) -> None:
    running.answers["plugins-positions"] = [
        {"row": {"name": "listener", "pending": 4, "parked": 1, "oldest": "2026-01-01T00:00:00.000Z"}},
        {"row": {"name": "gone", "pending": 9, "parked": 0, "oldest": None}},
        {"result": {}},
    ]
    rows = {row["name"]: row for row in sidecar("plugins", "--json").json["plugins"]}
    assert (rows["listener"]["pending"], rows["gone"]["pending"], rows["gone"]["slot"]) == (4, 9, None)
    assert "no longer loaded: gone; `sidecar plugins forget NAME`" in sidecar("plugins").out


def test_a_plugin_that_is_still_there_is_not_forgotten(running: Running) -> None:
    assert sidecar("plugins", "forget", "persistence", "--yes").code == 2
    assert running.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead-letters", "drop", "--all"),
        ("keys", "destroy", "--chat", "c"),
        ("keys", "prune"),
        ("users", "erase", "--user", "bob"),
        ("plugins", "forget", "old"),
    ],
)
def test_what_destroys_asks(running: Running, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    assert sidecar(*arguments).code == 1
    monkeypatch.setattr("sidecar.cli.options.on_terminal", lambda: True)
    refused = sidecar(*arguments, typed="n\n")
    assert (refused.code, running.asked) == (1, [])
    assert "nothing was done" in refused.err
    assert sidecar(*arguments, typed="").code == 1
    assert running.asked == []
    running.answers = {
        name: [{"result": {}}]
        for name in ("dead-letters-drop", "keys-destroy", "keys-prune", "users-erase", "plugins-forget")
    }
    assert sidecar(*arguments, typed="y\n").code == 0
    assert len(running.asked) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead-letters", "replay"),
        ("dead-letters", "drop", "--all", "--chat", "c", "--yes"),
        ("keys", "destroy", "--yes"),
    ],
)
def test_a_command_that_does_not_say_what_it_means_does_nothing(running: Running, arguments: tuple[str, ...]) -> None:
    assert sidecar(*arguments).code == 1
    assert running.asked == []


def _operations(monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    asked: list[tuple[str, dict[str, Any]]] = []

    async def run(config: Config, command: str, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        asked.append((command, arguments))
        for line in lines:
            yield line

    module = types.ModuleType("sidecar.operations")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sidecar.operations", module)
    return asked


def test_when_nothing_serves_the_command_does_it_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _operations(monkeypatch, {"result": {"count": 2}})
    assert sidecar("dead-letters", "replay", "--all").out == "2 taken up again\n"
    (folder / "sidecar-data").mkdir()
    with socket.socket(socket.AF_UNIX) as left:  # what a killed sidecar leaves behind: nobody listens on it
        left.bind(str(folder / "sidecar-data" / "sidecar.sock"))
    assert sidecar("keys", "rotate").code == 0
    assert [command for command, _ in asked] == ["dead-letters-replay", "keys-rotate"]


def test_a_running_sidecar_is_asked_first(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _operations(monkeypatch, {"result": {}})
    running.answers["keys-rotate"] = [{"row": {}}]
    assert sidecar("keys", "rotate").code == 1, "it broke off: nobody knows what was done, so nothing is done twice"
    assert asked == []


def test_a_socket_deep_down_is_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    config = read(environment={"SIDECAR_DATA_DIR": str(deep)}, working_folder=tmp_path)
    with serving(config.socket_path) as running:
        running.answers["plugins-positions"] = ROWS
        answer = operators.ask_running(config, "plugins-positions", {})
    assert answer is not None
    assert len(answer.rows) == 2
    assert operators.ask_running(config, "plugins-positions", {}) is None


# -- what is printed ---------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, told = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setenv("TERM", "xterm")
    with Steps("resealing") as steps:
        steps.show(1, None)
        steps.show(3, 10)
    assert "3/10" in told.getvalue()
    assert "3 of 10" not in told.getvalue()
    say_rows([{"name": "[red]x[/red]", "hooks": ["a", "b"], "on": True}], "nothing")
    assert "[red]x[/red]" in shown.getvalue()
    assert "a, b" in shown.getvalue()


def test_a_terminal_is_not_given_orders(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert printable("a\x1b[2J\u202eb\n") == "a\\x1b[2J\\x202eb\\x0a"
    complain("one\ntwo \x1b]0;x\x07")
    assert capsys.readouterr().err == "one two \\x1b]0;x\\x07\n"
    say_rows([{"name": "a\tb\x1b"}], "nothing")
    assert capsys.readouterr().out == "name\na\\x09b\\x1b\n"
