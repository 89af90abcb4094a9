"""What a command says, line by line."""

from __future__ import annotations

from typing import Any

from sidecar.errors import SidecarError

Line = dict[str, Any]


class OperationRefused(SidecarError):
    """A command cannot do what was asked. `remedy` says what to do instead."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


def progress(done: int, total: int | None = None) -> Line:
    """`total` None: nobody knows yet how much it is."""
    return {"progress": {"done": done, "total": total}}


def row(**columns: Any) -> Line:
    return {"row": columns}


def result(**facts: Any) -> Line:
    """The last line of a command that did what was asked."""
    return {"result": facts}


def error(message: str, remedy: str) -> Line:
    """The last line of a command that did not."""
    return {"error": {"message": message, "remedy": remedy}}
