"""How a command ends: its exit status, and one line on stderr instead of a traceback.

0 done · 1 not done, and the line says why · 2 the configuration or the command line is wrong · 3 a part answered and
refused at start · 130 interrupted.
"""

from __future__ import annotations

import os
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from sidecar.cli.output import complain
from sidecar.errors import ConfigError, SidecarError, StartRefused
from sidecar.logs import described

DONE, FAILED, MISCONFIGURED, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130


@dataclass(slots=True)
class Run:
    """One run of a command; `redact` becomes the configuration's own once that was read."""

    redact: Callable[[str], str] = str


class CommandFailed(SidecarError):
    """A command cannot do what was asked. `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)


@contextmanager
def told(run: Run) -> Iterator[None]:
    """Ends the command as its errors say. Set `SIDECAR_DEBUG=1` to see the traceback of what nobody expected."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            complain(run.redact(str(problem)))
        raise typer.Exit(MISCONFIGURED) from None
    except StartRefused as error:
        complain(run.redact(f"sidecar: {error}"))
        raise typer.Exit(REFUSED) from None
    except SidecarError as error:
        complain(run.redact(f"sidecar: {error}"))
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        complain("sidecar: interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Who read our output has gone, as `head` does. Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if isinstance(error, typer.Exit | typer.Abort) or _is_usage(error):
            raise
        incident = secrets.token_hex(6)
        if os.environ.get("SIDECAR_DEBUG") == "1":
            complain(run.redact(traceback.format_exc()), lines=True)
        known = described(error)
        where = f" at {known['frames'][-1]}" if known["frames"] else ""
        complain(
            f"sidecar: unexpected {known['error']}{where} (incident {incident}); "
            "set SIDECAR_DEBUG=1 to see more, and report it"
        )
        raise typer.Exit(FAILED) from None


def _is_usage(error: Exception) -> bool:
    # Errors of the command line itself, which typer prints. Their class is click's in older typers, a vendored one in newer.
    return hasattr(error, "exit_code") and hasattr(error, "format_message")
