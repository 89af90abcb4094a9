"""Who waits for a question about a token: in the order in which they came, as fast as the pace allows.

Nobody waits for longer than the core gives a sign-in. Whoever would is given an appointment, and told when that is: thousands
who come at once after a restart are each sent away once, and not again and again by chance.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable

from plugins.auth.directus_pace import Pace
from sidecar import Unavailable

_LONGEST_TOLD = 60.0
"""Who has an appointment after that is told to come before it, for perhaps others did not come and there is room: not all of them
at the same moment, but spread over the second half of it as their appointments are."""
_LATE = 60.0
"""So long after its time an appointment holds: a client may come half a minute late (full jitter), and be slow besides."""
_MOST_APPOINTMENTS = 20_000
_APART = 1.05
"""From one appointment to the next, in calls that may leave meanwhile: some are made for other things than tokens."""


class Line:
    """Names stand for tokens. Where nobody waits anybody may; where somebody does, those with an appointment come first.

    Appointments are as far apart as the pace lets calls leave, so those who keep theirs find a short line, and no stream of
    newcomers, however dense, keeps them out. Belongs to one event loop.
    """

    def __init__(
        self,
        pace: Pace,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`patience`: how many seconds anybody waits here at most."""
        self._pace = pace
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._letting_in: asyncio.Task[None] | None = None
        self._appointments: OrderedDict[str, float] = OrderedDict()
        """When each name is expected, the earliest first."""
        self._last = 0.0
        """The latest appointment."""

    async def turn(self, name: str) -> None:
        """Returns when a call may leave for this name. Raises `Unavailable` at once where that would take too long."""
        if self._waiting:
            self._admit(name)
        self._appointments.pop(name, None)
        if not self._waiting and self._pace.wait() <= 0:
            self._pace.count()
        else:
            await self._wait()

    def _admit(self, name: str) -> None:
        """Raises `Unavailable` where this one has to come later."""
        now, ahead = self._clock(), len(self._waiting) * self._pace.gap
        while self._appointments and next(iter(self._appointments.values())) + _LATE < now:
            self._appointments.popitem(last=False)  # it was not kept
        expected = self._appointments.get(name)
        if expected is not None and expected > now + self._patience:
            raise _later(expected - now)
        if ahead <= self._patience and (expected is not None or self._last <= now + ahead):
            return
        # Nobody is to come again by chance: many who come late at once, all at their time, are set in order anew.
        expected = max(self._last, now + ahead) + _APART * self._pace.gap
        if name in self._appointments or len(self._appointments) < _MOST_APPOINTMENTS:
            self._appointments[name] = self._last = expected
            self._appointments.move_to_end(name)
        raise _later(expected - now)

    async def _wait(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._letting_in is None or self._letting_in.done():
            self._letting_in = asyncio.create_task(self._let_in())
        await turn

    async def _let_in(self) -> None:
        """Runs while somebody waits."""
        while self._waiting:
            if (wait := self._pace.wait()) > 0:
                await self._sleep(wait)
                continue
            turn = self._waiting.popleft()
            if not turn.done():  # else whoever waited has gone
                self._pace.count()
                turn.set_result(None)

    async def close(self) -> None:
        """Lets nobody in any more."""
        if self._letting_in is not None:
            self._letting_in.cancel()
            await asyncio.gather(self._letting_in, return_exceptions=True)


def _later(seconds: float) -> Unavailable:
    half = _LONGEST_TOLD / 2
    return Unavailable("auth", "too many sign in at this moment", retry_after=min(seconds, half + seconds % half))
