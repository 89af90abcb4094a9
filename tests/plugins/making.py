"""A listener that needs something made before it starts: folders, one for each name of its options."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from sidecar import ChatInDB, StartRefused, hookimpl


class Making:
    api = 1

    class Options(BaseModel, extra="forbid"):
        folder: Path
        names: list[str] = ["one", "two"]
        seconds: float = 0.0
        """That making each takes."""
        fails: str = ""
        """`refuse`, `raise` or `answer`: how it fails, instead of making anything."""

    def __init__(self, options: Options) -> None:
        self._options = options

    async def __aenter__(self) -> Making:
        if not all((self._options.folder / name).is_dir() for name in self._options.names):
            raise StartRefused("making", "its folders are missing; run `sidecar bootstrap`")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def bootstrap(self, dry_run: bool) -> Sequence[str]:
        options = self._options
        if options.fails == "refuse":
            raise StartRefused("making", f"{options.folder} is a file; move it away")
        if options.fails == "raise":
            raise ValueError("a text that may hold a password")
        if options.fails == "answer":
            return [1]  # type: ignore[list-item]
        missing = [name for name in options.names if not (options.folder / name).exists()]
        for name in missing if not dry_run else []:
            await asyncio.sleep(options.seconds)
            (options.folder / name).mkdir(parents=True)
        return [f"folder {name}" for name in missing]

    @hookimpl
    async def on_draft(self, chat: ChatInDB) -> None:
        pass
