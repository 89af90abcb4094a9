"""An authenticator whose sessions a test ends, lets expire, and breaks. The token is `USER` or `USER/SESSION`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sidecar import Authenticator, Credential, Session, Unauthenticated, hookimpl


class Sessions(Authenticator):
    api = 1

    def __init__(self) -> None:
        self.lives: dict[str, float] = {}
        """Seconds that a session lives, by token."""
        self.over: set[str] = set()
        """Tokens whose sessions have ended."""
        self.error: BaseException | None = None
        """Raised by whatever is called next, and from then on."""
        self.answer: Any = None
        """Returned by `sign_in` instead of a session."""
        self.blocks = 0.0
        """Seconds for which `sign_in` holds up the loop."""
        self.hangs = False
        self.credentials: list[Credential] = []
        self.rechecks = 0
        self.reports: asyncio.Queue[Any] = asyncio.Queue()

    @hookimpl
    async def provide_auth(self) -> Authenticator:
        return self

    async def sign_in(self, credential: Credential) -> Session:
        self.credentials.append(credential)
        if self.blocks:
            time.sleep(self.blocks)
        if self.hangs:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer  # type: ignore[no-any-return]
        token = credential.token
        if token in self.over or not token.replace("/", "").isalnum():
            raise Unauthenticated("this session is over")
        lives = self.lives.get(token)
        expires = datetime.now(UTC) + timedelta(seconds=lives) if lives is not None else None
        return Session(token.partition("/")[0], token.partition("/")[0].title(), token, expires)

    async def recheck(self, session: Session) -> None:
        self.rechecks += 1
        if self.error is not None:
            raise self.error
        if session.session_id in self.over:
            raise Unauthenticated("this session is over")

    async def ended(self) -> AsyncIterator[Any]:
        while True:
            report = await self.reports.get()
            if isinstance(report, BaseException):
                raise report
            yield report
