"""Whether Directus takes a token, and for whom: one question per token, whoever else asks it meanwhile, and each in its turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from plugins.auth.directus_line import Line
from plugins.auth.directus_tokens import Kind, Token, digest
from sidecar import Unauthenticated

_MOST_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Vouched:
    """What Directus says of a token that it takes."""

    user_id: str
    wants_second_factor: bool = False
    """A policy of this person does."""


class Vouchers:
    """`ask` asks Directus about a token. Those who come wait in one line, those who are here already in another.

    Both would suffer else: who comes would wait behind the looks of every minute, or these would not be made while many come.
    """

    def __init__(
        self,
        ask: Callable[[Token], Awaitable[Vouched]],
        line: Line,
        looks: Line,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._line = line
        self._looks = looks
        self._clock = clock
        self._good: dict[str, tuple[Vouched, float]] = {}
        """By digest of the token: what was said, and until when that is good."""
        self._static: set[str] = set()
        """Those of `_good` that are static tokens, which may be taken away at any moment."""
        self._drops = 0
        self._asking: dict[str, asyncio.Task[tuple[Vouched, float]]] = {}
        """With the time at which the question left, which may be long after it was asked for."""

    async def of(self, token: Token, seconds: float, *, fresh: bool = False) -> Vouched:
        """What Directus says of it. An answer is kept for `seconds` after it was asked; `fresh` does not take one that was kept.

        Raises `Unauthenticated`, `Unavailable`.
        """
        name = digest(token.text)
        if not fresh and (known := self._good.get(name)) is not None and self._clock() < known[1]:
            return known[0]
        task = self._asking.get(name)
        if task is None:
            line = self._looks if fresh else self._line
            task = self._asking[name] = asyncio.create_task(self._find(name, token, line))
            task.add_done_callback(partial(self._asked, name))
        drops = self._drops
        vouched, asked = await asyncio.shield(task)
        static = token.kind is Kind.STATIC
        if seconds > 0 and not (static and drops != self._drops):
            self._keep(name, vouched, asked + seconds)
            if static:
                self._static.add(name)
        return vouched

    async def _find(self, name: str, token: Token, line: Line) -> tuple[Vouched, float]:
        try:
            await line.turn(name)
            asked = self._clock()
            return await self._ask(token), asked
        except Unauthenticated:
            self._good.pop(name, None)
            raise

    def _asked(self, name: str, task: asyncio.Task[tuple[Vouched, float]]) -> None:
        self._asking.pop(name, None)
        if not task.cancelled():
            task.exception()  # whoever asked may have gone meanwhile, and it is nobody's then

    def drop_static(self) -> None:
        """Forgets every static token: somebody's may have been taken away."""
        self._drops += 1
        for name in self._static:
            self._good.pop(name, None)
        self._static.clear()

    def _keep(self, name: str, vouched: Vouched, until: float) -> None:
        self._good.pop(name, None)
        self._good[name] = vouched, until
        while len(self._good) > _MOST_KEPT:
            del self._good[next(iter(self._good))]

    async def close(self) -> None:
        """Gives up what is being asked, and what waits for it."""
        for task in (asking := list(self._asking.values())):
            task.cancel()
        await asyncio.gather(*asking, self._line.close(), self._looks.close(), return_exceptions=True)
