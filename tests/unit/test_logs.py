"""The log: what passes the allow-list, what does not, and that nothing else finds a way (T38)."""

from __future__ import annotations

import ast
import asyncio
import gc
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from sidecar import logs
from sidecar.errors import SidecarError, Unavailable
from sidecar.log_keys import KEYS
from sidecar.logs import WITHHELD

CANARY = "Liebe Ada, das ist mein Geheimnis"


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    configured = structlog.get_config()
    access = logging.getLogger("aiohttp.access").disabled
    for owner, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    yield
    for handler in [each for each in root.handlers if isinstance(each, logs.Lines)]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.getLogger("aiohttp.access").disabled = access
    for name in ("aiohttp", "asyncio", "concurrent", "charset_normalizer", "hvac", "redis", "urllib3"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.configure(**configured)


class Written:
    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (line,) = self.lines
        return line


def _configure(level: str = "DEBUG", format: str = "json", **more: Any) -> Written:  # noqa: A002
    stream = io.StringIO()
    logging.getLogger().handlers.clear()  # pytest's own show records as they came
    logs.configure(level, format, stream, **more)  # type: ignore[arg-type]
    return Written(stream)


def test_known_keys_of_their_kind_pass() -> None:
    written = _configure()
    structlog.get_logger("sidecar.x").info(
        "a draft conflicted", chat="ab12cd34_x", version=4, reason="it is stale", names=["a", "b"]
    )
    line = written.line
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "a draft conflicted",
        "level": "info",
        "logger": "sidecar.x",
        "chat": "ab12cd34_x",
        "version": 4,
        "reason": "it is stale",
        "names": ["a", "b"],
    }


@pytest.mark.parametrize("format", ["json", "console"])
def test_t38_content_finds_no_way_into_a_log(format: str) -> None:  # noqa: A002
    """T38: a canary in every place that a careless line could put it."""
    written = _configure(format=format)
    log = structlog.get_logger("sidecar.x")
    log.info("unknown keys", draft=CANARY, content={"text": CANARY}, **{CANARY: 1})
    for key, kind in KEYS.items():
        if kind != "text" and key not in {"level", "logger", "timestamp"}:
            log.info("known keys", **{key: CANARY})
            log.info("known keys", **{key: {"a": CANARY}})
            log.info("known keys", **{key: [CANARY]})
            log.info("known keys", **{key: CANARY.encode()})
        elif key != "event" and kind == "text":
            log.info("known keys", **{key: {"a": CANARY}})
    with structlog.contextvars.bound_contextvars(draft=CANARY, title=CANARY):
        log.warning("bound")
    log.bind(draft=CANARY).error("bound too", error=f"ValueError: {CANARY}")
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise ExceptionGroup(CANARY, [ValueError(CANARY)]) from error
    except ExceptionGroup as group:
        log.exception("own")
        log.error("own", exc_info=group)
        log.exception("own", stack_info=True)
        log.error("own", error=ValueError(CANARY))
        logging.getLogger("lib").exception("foreign")
        logging.getLogger("lib").warning("foreign %s", group)
    library = logging.getLogger("lib")
    library.warning("foreign %s %r %d", CANARY, CANARY, 3)
    library.warning("foreign %(what)s", {"what": CANARY})
    library.warning("foreign %s")
    library.warning("foreign %d", CANARY)
    library.warning("foreign\n%s", CANARY)
    library.warning(f"first line\n{CANARY}")
    library.warning("foreign", extra={"draft": CANARY, "user": CANARY})
    library.warning("foreign", stack_info=True)
    logging.getLogger("aiohttp.access").critical("GET /ws?token=Geheimnis")
    assert "Geheimnis" not in written.text
    assert "Ada" not in written.text
    assert len(written.text.splitlines()) > 100


async def test_t38_what_asyncio_reports_is_cut_to_its_first_line() -> None:
    written = _configure()

    async def fail() -> None:
        raise ValueError(CANARY)

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()
    line = written.line
    assert line["event"] == "Task exception was never retrieved"
    assert line["error"] == "ValueError"
    assert "Geheimnis" not in written.text


def test_an_exception_is_its_type_and_frames_and_ours_its_message() -> None:
    written = _configure()
    log = structlog.get_logger()
    for error in (ValueError(CANARY), Unavailable("cache", "it does not answer")):
        try:
            try:
                raise OSError(CANARY)
            except OSError as cause:
                raise error from cause
        except (ValueError, SidecarError):
            log.exception("it failed")
    theirs, ours = written.lines
    assert (theirs["error"], theirs["cause"]) == ("ValueError", ["OSError"])
    assert "error_message" not in theirs
    assert ours["error_message"] == "cache is unavailable: it does not answer"
    (frame,) = theirs["frames"]
    file, number, function = frame.split(":")
    assert (file, function) == ("unit/test_logs.py", "test_an_exception_is_its_type_and_frames_and_ours_its_message")
    assert int(number) > 0


def test_frames_name_no_folder_of_the_machine() -> None:
    try:
        asyncio.run(_raise())
    except ValueError as error:
        frames = logs.frames_of(error)
    assert frames
    assert not any(frame.startswith("/") or str(Path.home()) in frame for frame in frames)


async def _raise() -> None:
    raise ValueError


def test_an_error_key_takes_type_names_and_our_own_texts() -> None:
    written = _configure()
    log = structlog.get_logger()
    for value in (
        "KeyError",
        "OSError (No space left on device)",
        "Unavailable: cache is away",
        Unavailable("cache"),
        KeyError(CANARY),
    ):
        log.info("x", error=value)
    log.info("x", error=f"KeyError: {CANARY}")
    assert [line["error"] for line in written.lines] == [
        "KeyError",
        "OSError (No space left on device)",
        "Unavailable: cache is away",
        "Unavailable: cache is unavailable",
        "KeyError",
        WITHHELD,
    ]


def test_levels_and_libraries() -> None:
    written = _configure("INFO")
    structlog.get_logger("sidecar").debug("not heard")
    logging.getLogger("audit").debug("not heard")
    logging.getLogger("aiohttp.server").info("not heard")
    logging.getLogger("asyncio").info("not heard")
    logging.getLogger("audit").info("draft of %s is now version %d in %s", "ab_c", 4, Path("/data/x"))
    logging.getLogger("aiohttp.server").warning("heard")
    assert [line["event"] for line in written.lines] == ["draft of ab_c is now version 4 in /data/x", "heard"]
    quieter = _configure("ERROR")
    logging.getLogger("aiohttp.server").warning("not heard")
    structlog.get_logger().error("heard", count=1)
    assert quieter.line["count"] == 1
    assert len(written.lines) == 2


def test_standard_library_records_may_carry_known_keys() -> None:
    written = _configure()
    logging.getLogger("plugin").info("stored", extra={"chat": "ab_c", "draft": CANARY})
    assert (written.line["chat"], written.line["withheld"]) == ("ab_c", 1)


def test_texts_hold_one_line_without_control_characters_and_secrets() -> None:
    written = _configure(redact=lambda text: text.replace("hunter2", "[redacted]"))
    structlog.get_logger().info("a\nb\x1b[2J", reason="redis://u:hunter2@h " + "x" * 1000, url="redis://u:hunter2@h")
    line = written.line
    assert line["event"] == "a b [2J"
    assert "hunter2" not in written.text
    assert line["url"] == "redis://u:[redacted]@h"
    assert len(line["reason"]) == 400


def test_console_is_for_terminals() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.configure("INFO", "auto", terminal)
    structlog.get_logger().info("hello", count=3)
    assert "\x1b[" in terminal.getvalue()
    plain = _configure(format="auto")
    structlog.get_logger().info("hello", count=3)
    assert plain.line["count"] == 3
    console = _configure(format="console")
    structlog.get_logger().info("hello", count=3)
    assert "count=3" in console.text
    assert "\x1b[" not in console.text


def test_a_line_that_cannot_be_written_harms_nobody_and_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd:
        def __str__(self) -> str:
            raise ValueError(CANARY)

    written = _configure()
    logging.getLogger("odd").warning(Odd())
    assert written.text == "a log line of odd could not be written (ValueError)\n"
    closed = io.StringIO()
    logs.configure("INFO", "json", closed)
    closed.close()
    structlog.get_logger().info("hello", reason=CANARY)
    assert "Geheimnis" not in "".join(capsys.readouterr())


def test_t38_what_nobody_caught_is_logged_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    written = _configure()
    logs.guard_process()

    def fail() -> None:
        raise ValueError(CANARY)

    thread = threading.Thread(target=fail, name="worker-1")
    thread.start()
    thread.join()
    try:
        fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)

    class Left:
        def __del__(self) -> None:
            fail()

    left = Left()
    del left
    gc.collect()
    assert [(line["thread"], line["error"]) for line in written.lines] == [
        ("worker-1", "ValueError"),
        ("main", "ValueError"),
        ("finalizer", "ValueError"),
    ]
    assert "Geheimnis" not in written.text + "".join(capsys.readouterr())


def _logged_keys(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"debug", "info", "warning", "error", "critical", "exception"}
            and ast.unparse(node.func.value).lower().split(".")[-1].lstrip("_") in {"log", "logger"}
        ):
            yield from ((keyword.arg, node.lineno) for keyword in node.keywords if keyword.arg)


def test_every_key_that_our_code_logs_passes() -> None:
    """A key that is not in the table would be dropped in silence."""
    root = Path(logs.__file__).parents[1]
    files = [*(root / "sidecar").rglob("*.py"), *(root / "plugins").rglob("*.py")]
    unknown = [
        f"{file.relative_to(root)}:{line}: {key}"
        for file in files
        for key, line in _logged_keys(file)
        if key not in KEYS and key not in {"exc_info", "stack_info", "extra", "stacklevel"}
    ]
    assert unknown == []
