"""A listener with something to say to `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from sidecar import ChatInDB, Finding, StartRefused, Unavailable, Unstorable, hookimpl


class Ailing:
    api = 1

    class Options(BaseModel, extra="forbid"):
        how: str = "finding"

    def __init__(self, options: Options) -> None:
        self._how = options.how

    async def __aenter__(self) -> Ailing:
        if self._how == "refused":
            raise StartRefused("ailing", "its server knows no such user; make one")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {"ok": self._how != "state", "reason": "its server is asleep"}

    async def findings(self) -> Sequence[Any]:
        match self._how:
            case "unavailable":
                raise Unavailable("ailing", "nobody answers")
            case "raises":
                raise ValueError("a text that may hold a password")
            case "answers nonsense":
                return [1]
            case "line":
                return ["its index is old; build it anew"]
            case "state" | "parks":
                return []
            case _:
                return [Finding("index", "error", "its index\nis old", "build it anew")]

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        if self._how == "parks":
            raise Unstorable("ailing", "it will not have it")
