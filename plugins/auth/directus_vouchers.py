"""Whether Directus takes a token, and for whom: one question per token, whoever else asks it meanwhile, and never too many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from plugins.auth.directus_tokens import Kind, Token, digest
from sidecar import Unauthenticated, Unavailable

_MOST_KEPT = 50_000
_PATIENCE_SECONDS = 8.0
"""Who would wait longer for the turn is told to come back: the core gives a sign-in ten seconds."""


class Pace:
    """Lets so many a second pass, in their order; a second's worth at once."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 1.0 / per_second
        self._clock = clock
        self._next = 0.0

    async def turn(self) -> None:
        """Returns when it is this caller's turn. Raises `Unavailable` at once where that would take too long."""
        now = self._clock()
        self._next = max(self._next, now - 1.0)
        wait = self._next - now
        if wait > _PATIENCE_SECONDS:
            raise Unavailable("auth", "too many sign in at this moment", retry_after=wait)
        self._next += self._gap
        if wait > 0:
            await asyncio.sleep(wait)


class Vouchers:
    """`ask` is `GET /users/me` with the token: the id of the person, else `Unauthenticated`."""

    def __init__(
        self, ask: Callable[[str], Awaitable[str]], pace: Pace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._pace = pace
        self._clock = clock
        self._good: dict[str, tuple[str, float]] = {}
        """By digest of the token: whose it is, and until when that is known."""
        self._static: set[str] = set()
        """Those of `_good` that are static tokens, which may be taken away at any moment."""
        self._drops = 0
        self._asking: dict[str, asyncio.Task[str]] = {}

    async def whose(self, token: Token, seconds: float, *, fresh: bool = False) -> str:
        """Whose token this is. An answer is kept for `seconds`; `fresh` does not take one that was kept.

        Raises `Unauthenticated`, `Unavailable`.
        """
        name = digest(token.text)
        if not fresh and (known := self._good.get(name)) is not None and self._clock() < known[1]:
            return known[0]
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._find(name, token.text))
            task.add_done_callback(partial(self._asked, name))
        started, drops = self._clock(), self._drops
        user_id = await asyncio.shield(task)
        if token.user_id is not None and token.user_id != user_id:
            raise Unauthenticated("Directus knows this token as another person's")
        static = token.kind is Kind.STATIC
        if seconds > 0 and not (static and drops != self._drops):
            self._keep(name, user_id, started + seconds)
            if static:
                self._static.add(name)
        return user_id

    async def _find(self, name: str, text: str) -> str:
        try:
            await self._pace.turn()
            return await self._ask(text)
        except Unauthenticated:
            self._good.pop(name, None)
            raise

    def _asked(self, name: str, task: asyncio.Task[str]) -> None:
        self._asking.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone meanwhile, and it is nobody's then

    def drop_static(self) -> None:
        """Forgets every static token: somebody's may have been taken away."""
        self._drops += 1
        for name in self._static:
            self._good.pop(name, None)
        self._static.clear()

    def _keep(self, name: str, user_id: str, until: float) -> None:
        self._good.pop(name, None)
        self._good[name] = user_id, until
        while len(self._good) > _MOST_KEPT:
            del self._good[next(iter(self._good))]

    async def close(self) -> None:
        """Gives up what is being asked."""
        for task in (asking := list(self._asking.values())):
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
