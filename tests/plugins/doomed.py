"""An authenticator that ends its process, refuses or takes its time while it is entered: `how` says how."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Self

from pydantic import BaseModel

from sidecar import Authenticator, StartRefused, Surroundings, Unavailable, hookimpl
from tests.plugins.sessions import Sessions


class Doomed:
    api = 1

    class Options(BaseModel, extra="forbid"):
        how: str
        spared: int = 0
        """So many starts go well, over all workers."""

    def __init__(self, options: Options, surroundings: Surroundings) -> None:
        self._options = options
        self._starts = surroundings.data_dir / "starts"

    async def __aenter__(self) -> Self:
        with self._starts.open("ab") as file:
            file.write(b".")
        if self._starts.stat().st_size <= self._options.spared:
            return self
        match self._options.how:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "refused":
                raise StartRefused("auth", "the credentials are wrong; mend them")
            case "away":
                raise Unavailable("auth", "nobody answers")
            case "slow":
                await asyncio.sleep(4.0)
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @hookimpl
    async def provide_auth(self) -> Authenticator:
        return Sessions()
