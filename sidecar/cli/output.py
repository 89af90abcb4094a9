"""What commands print: data on stdout, everything else on stderr, plain where nobody watches."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(value: object) -> str:
    """The text without anything that a terminal would obey."""
    return _UNPRINTABLE.sub(lambda found: f"\\x{ord(found[0]):02x}", str(value))


def say(text: str) -> None:
    """A line of what was asked for."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str, *, lines: bool = False) -> None:
    """A line beside it. Line breaks are printed as such only with `lines`."""
    shown = "\n".join(map(printable, text.splitlines())) if lines else printable(" ".join(text.split("\n")))
    sys.stderr.write(f"{shown}\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    say(json.dumps(value, ensure_ascii=False, indent=2))


def say_rows(rows: Sequence[Mapping[str, Any]], nothing: str) -> None:
    """A table on a terminal, else one line a row with tabs between; a heading in both."""
    if not rows:
        say(nothing)
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if not sys.stdout.isatty():
        for line in [columns, *cells]:
            say("\t".join(line))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(printable(column), overflow="fold")
    for line in cells:
        table.add_row(*map(Text, line))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return printable(value)
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        return ", ".join(_cell(each) for each in value) or "-"
    return printable(json.dumps(value, ensure_ascii=False))


class Steps:
    """The progress of long work, on stderr: a bar on a terminal, elsewhere a line for each tenth."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Progress | None = None
        self._task: Any = None
        self._told = -1

    def __enter__(self) -> Steps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int | None) -> None:
        """`total` None: nobody knows yet how much it is."""
        if sys.stderr.isatty():
            if self._bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
                self._bar.start()
                self._task = self._bar.add_task(self._what, total=total)
            self._bar.update(self._task, completed=done, total=total)
            return
        tenth = done * 10 // total if total else done // 1000
        if tenth != self._told or done == total:
            self._told = tenth
            complain(f"{self._what}: {done} of {total}" if total is not None else f"{self._what}: {done}")
