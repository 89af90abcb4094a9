"""Logs that cannot hold content (threats T38): an allow-list of keys, and of shapes of values.

Own code logs an event, which is a constant sentence, with keys of `KEYS`:

    log = structlog.get_logger()
    log.warning("a draft conflicted", chat=chat_id, version=4, reason="stale")

- A key that is not in `KEYS` is dropped; `withheld` counts those.
- A value must fit its key: a *word* has no white space (ids, codes, names of plugins), a *text* is a sentence that the
  sidecar itself wrote, a *number* is a number, an *error* is the name of a type, with text only if it is a
  `SidecarError`. Anything else reads `[withheld]`, which a sentence of a person would be.
- An exception is logged as its type and frames (file:line:function). Its message appears only if it is a `SidecarError`,
  whose rule is to carry no content.
- Records of the standard library's `logging` take the same way. Of their message the first line is kept, and of its
  arguments numbers and words: a library may put anything into the rest.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

from sidecar.errors import SidecarError
from sidecar.log_keys import KEYS, Kind

WITHHELD = "[withheld]"
_WORD = re.compile(r"[\x21-\x7e]{1,200}")
_ERROR = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,99}(?: \([A-Za-z0-9 ,'/-]{1,100}\))?")
"""`KeyError`, `OSError (No space left on device)`."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONGEST = 400
_FRAMES = 20
_QUIET = ("aiohttp", "asyncio", "concurrent", "charset_normalizer", "hvac", "redis", "urllib3")
"""Libraries that are heard from WARNING on, whatever the level."""

Event = MutableMapping[str, Any]


def configure(
    level: str = "INFO",
    format: Literal["auto", "json", "console"] = "auto",  # noqa: A002 - the key's name in the YAML
    stream: TextIO | None = None,
    *,
    redact: Callable[[str], str] | None = None,
    worker: str | None = None,
) -> None:
    """Sends structlog and the standard library's logging to `stream` (stderr) through the allow-list; again replaces the set-up.

    `auto` is console on a terminal and JSON elsewhere. `redact` takes secrets out of texts: `Config.redact`. `worker`: which of
    several processes this is; it stands in every line.
    """
    terminal = (stream or sys.stderr).isatty()
    console = format == "console" or (format == "auto" and terminal)
    number = logging.getLevelNamesMapping()[level]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=terminal, sort_keys=False)
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:
        shared.append(_Worker(worker))
    handler = Lines(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            # Own records carry the event as it was bound; foreign ones only what `_foreign` lets through.
            processors=[_foreign, _exceptions, _AllowList(redact), _Forget(), renderer],
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, Lines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.getLogger("aiohttp.access").disabled = True  # a request line holds what the client chose
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def guard_process() -> None:
    """From now on what nobody caught is logged like everything else, instead of being printed with its message.

    For the process that serves; `configure` comes first.
    """
    log = structlog.get_logger("sidecar")

    def uncaught(
        kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None, where: str
    ) -> None:
        if error is None:
            error = kind()
        log.critical("an exception that nobody caught", thread=where, exc_info=(kind, error, traceback))

    def of_main(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        uncaught(kind, error, traceback, "main")

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        name = arguments.thread.name if arguments.thread else "unknown"
        uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback, name)

    def of_nobody(arguments: Any) -> None:
        uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback, "finalizer")

    sys.excepthook = of_main
    threading.excepthook = of_thread
    sys.unraisablehook = of_nobody


def frames_of(error: BaseException) -> list[str]:
    """Where it was raised, outermost first: `sidecar/drafts.py:12:update`. No message, no values, no source lines."""
    found: list[str] = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        found.append(f"{_short(code.co_filename)}:{traceback.tb_lineno}:{code.co_name}")
        traceback = traceback.tb_next
    return found[-_FRAMES:]


def described(error: BaseException) -> dict[str, Any]:
    """An exception as a log line shows it: `error`, `frames`, `cause`, and `error_message` only of a `SidecarError`."""
    told: dict[str, Any] = {"error": type(error).__name__, "frames": frames_of(error)}
    if isinstance(error, SidecarError):
        told["error_message"] = str(error)
    causes: list[str] = []
    waiting, seen = [error], {id(error)}
    while waiting and len(causes) < _FRAMES:
        each = waiting.pop(0)
        below = list(each.exceptions) if isinstance(each, BaseExceptionGroup) else []
        cause = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        for found in [*below, *([cause] if cause is not None else [])]:
            if id(found) not in seen:
                seen.add(id(found))
                causes.append(type(found).__name__)
                waiting.append(found)
    if causes:
        told["cause"] = causes
    return told


def _names_of(kind: type[BaseException]) -> set[str]:
    return {kind.__name__}.union(*(_names_of(below) for below in kind.__subclasses__()))


def _short(file: str) -> str:
    # From the package on, so that no folder of the machine is told.
    parts = Path(file).parts
    for root in ("site-packages", "lib-dynload"):
        if root in parts:
            return "/".join(parts[parts.index(root) + 1 :])
    for root in ("sidecar", "plugins"):
        if root in parts:
            return "/".join(parts[len(parts) - 1 - parts[::-1].index(root) :])
    return "/".join(parts[-2:]) if len(parts) > 2 else Path(file).name


def _foreign(logger: Any, method: str, event: Event) -> Event:
    """A record of `logging`: the first line of its message, with those of its arguments that are numbers or words."""
    record: logging.LogRecord = event["_record"]
    if not event["_from_structlog"]:
        event["event"] = _message(str(record.msg), event.pop("positional_args", None)).split("\n", 1)[0].strip()
        if record.exc_info and record.exc_info[1] is not None:
            event["exc_info"] = record.exc_info
    return event


def _message(template: str, arguments: Any) -> str:
    if not arguments:
        return template
    try:
        if isinstance(arguments, Mapping):
            return template % {key: _harmless(value) for key, value in arguments.items()}
        return template % tuple(_harmless(value) for value in arguments)
    except (TypeError, ValueError, KeyError):
        return template


def _harmless(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = str(value) if isinstance(value, str | Path) else ""
    return text if _WORD.fullmatch(text) else WITHHELD


def _exceptions(logger: Any, method: str, event: Event) -> Event:
    found = event.pop("exc_info", None)
    event.pop("exception", None)
    event.pop("stack_info", None)
    if found is True:
        found = sys.exc_info()
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        for key, value in described(error).items():
            event.setdefault(key, value)
    return event


class Lines(logging.Handler):
    """Writes one line a record. The standard library's handler would print a record that it cannot write, arguments and all."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = self._stream or sys.stderr
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever a record holds, logging it ends nothing
            line = f"a log line of {record.name} could not be written ({type(error).__name__})"
        try:
            stream.write(f"{line}\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody is left to be told


class _Worker:
    """Says which of several processes wrote a line, unless the line is about another."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        event.setdefault("worker", self._name)
        return event


class _AllowList:
    """Drops the keys that are not in `KEYS`, and withholds values that are not of their key's kind."""

    __slots__ = ("_redact",)

    def __init__(self, redact: Callable[[str], str] | None) -> None:
        self._redact = redact or str

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        kept: dict[str, Any] = {}
        withheld = 0
        for key, value in event.items():
            if key in {"_record", "_from_structlog"}:
                kept[key] = value
            elif key in KEYS:
                kept[key] = self._fit(KEYS[key], value)
            else:
                withheld += 1
        if withheld:
            kept["withheld"] = withheld
        return kept

    def _fit(self, kind: Kind, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if kind == "words" and isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return [self._word(each) for each in value[:_FRAMES]]
        if kind == "text" and isinstance(value, str):
            text = _CONTROL.sub(" ", self._redact(value))
            return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
        if kind == "error":
            return self._error(value)
        return self._word(value) if kind == "word" else WITHHELD

    def _error(self, value: Any) -> str:
        if isinstance(value, BaseException):
            value = f"{type(value).__name__}: {value}" if isinstance(value, SidecarError) else type(value).__name__
        if not isinstance(value, str):
            return WITHHELD
        name, colon, _ = value.partition(": ")
        if (colon and name in _names_of(SidecarError)) or _ERROR.fullmatch(value):
            text: str = self._fit("text", value)
            return text
        return WITHHELD

    def _word(self, value: Any) -> str:
        text = self._redact(str(value)) if isinstance(value, str | Path) else ""
        return text if _WORD.fullmatch(text) else WITHHELD


class _Forget:
    """Takes structlog's own entries away, as `ProcessorFormatter.remove_processors_meta` does, missing ones included."""

    __slots__ = ()

    def __call__(self, logger: Any, method: str, event: Event) -> Event:
        event.pop("_record", None)
        event.pop("_from_structlog", None)
        return event
