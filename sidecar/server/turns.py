"""Turns at reading: a socket's reader answers frames itself while they wait for nothing (`socket.py`).

Most frames do not, and a task for each would cost as much as sealing it does. Whether one waits is seen from the loop having
come to its next round before it was done; one look a round serves every socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FRAME_SECONDS = 30.0
"""No frame is worked on for longer; the slots have shorter deadlines of their own."""


class Turn:
    """A task's turn at reading. It is over when its frame has to wait: then another task reads on."""

    __slots__ = ("deadline", "done", "over", "read_on")

    def __init__(self, read_on: Callable[[], None]) -> None:
        self.read_on = read_on
        self.done = False
        self.over = False
        self.deadline: asyncio.Timeout | None = None
        """Of the frame that is being worked on; it begins when the turn is over."""


class Turns:
    """The turns that began in this round of the loop."""

    def __init__(self) -> None:
        self._begun: list[Turn] = []

    def begin(self, turn: Turn) -> None:
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._look)
        self._begun.append(turn)

    def _look(self) -> None:
        begun, self._begun = self._begun, []
        for turn in begun:
            if not turn.done:
                turn.over = True
                if turn.deadline is not None:
                    turn.deadline.reschedule(asyncio.get_running_loop().time() + FRAME_SECONDS)
                turn.read_on()
