"""Turns at reading: a socket's reader answers frames itself while they wait for nothing (`socket.py`).

Most frames do not, and a task for each would cost as much as sealing it does. Whether one waits is seen from the loop having
come to its next round before it was done; one look a round serves every socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

FRAME_SECONDS = 30.0
"""No frame is worked on for longer; the slots have shorter deadlines of their own."""


class Turn:
    """A task's turn at reading. It is over when one of its frames has to wait: then another task reads on.

    A frame that waits for nothing needs no deadline, so one is set only when the turn is over; else it is as
    `asyncio.timeout`, which would cost each frame as much as the rule does.
    """

    __slots__ = ("_expired", "_limited", "_task", "_turns", "done", "ends", "over", "read_on")

    def __init__(self, turns: Turns, read_on: Callable[[], None]) -> None:
        """Made by the task whose turn it is; `read_on` lets another one read."""
        self._turns = turns
        self.read_on = read_on
        self.done = True
        """Nothing is being worked on in this turn."""
        self.over = False
        task = asyncio.current_task()
        assert task is not None, "a reader is a task"  # noqa: S101  # for the type checker
        self._task = task
        self._limited = False
        self.ends: float | None = None
        """When the time of the frame that waits is over, by the loop's clock."""
        self._expired = False

    def end(self) -> None:
        """The frame has to wait."""
        self.over = True
        if self._limited:
            self._start()
        self.read_on()

    def limit(self) -> None:
        """What follows, until `unlimit`, has a deadline if it has to wait."""
        self._limited = True
        if self.over:
            self._start()

    def _start(self) -> None:
        self.ends = self._turns.deadline_of(self)

    def expire(self) -> None:
        """The frame is cut off."""
        self.ends = None
        self._expired = True
        self._task.cancel()

    def unlimit(self) -> bool:
        """It is done, or was cut off; True if by its deadline, whose cancellation is taken back."""
        self._limited = False
        self.ends = None
        if not self._expired:
            return False
        self._expired = False
        return self._task.uncancel() == 0  # else somebody else ends this task as well


class Turns:
    """The turns at work in this round of the loop."""

    def __init__(self) -> None:
        self._begun: list[Turn] = []
        self._limited: deque[tuple[float, Turn]] = deque()
        """With their deadlines, the earliest first: all have equally long, so that one timer does for all of them."""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, turn: Turn) -> None:
        """The turn works on a frame from now on."""
        turn.done = False
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._look)
        self._begun.append(turn)

    def _look(self) -> None:
        begun, self._begun = self._begun, []
        for turn in begun:
            if not turn.done and not turn.over:
                turn.end()

    def deadline_of(self, turn: Turn) -> float:
        """When the time of a frame is over that waits from now on; the turn expires then, if it still `ends` at that moment."""
        limited, loop = self._limited, asyncio.get_running_loop()
        while limited and limited[0][1].ends != limited[0][0]:
            limited.popleft()
        ends = loop.time() + FRAME_SECONDS
        limited.append((ends, turn))
        if self._timer is None:
            self._timer = loop.call_at(ends, self._expire_some)
        return ends

    def _expire_some(self) -> None:
        limited, loop = self._limited, asyncio.get_running_loop()
        self._timer = None
        while limited and (limited[0][1].ends != limited[0][0] or limited[0][0] <= loop.time()):
            ends, turn = limited.popleft()
            if turn.ends == ends:
                turn.expire()
        if limited:
            self._timer = loop.call_at(limited[0][0], self._expire_some)
