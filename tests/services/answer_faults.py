"""What a fault proxy does to single answers: swallow, truncate, replace."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum


class Then(StrEnum):
    """What becomes of the connection whose answer did not come back whole."""

    RESET = "reset"
    """The client reads a reset (RST)."""
    CLOSE = "close"
    """The client reads an orderly end (FIN)."""
    HANG = "hang"
    """It stays open, and nothing comes back on it any more; requests still reach the server."""
    GO_ON = "go on"
    """It goes on as if nothing had been."""


@dataclass(slots=True)
class Limit:
    """Which answers a fault is for."""

    times: int | None = 1
    """How many; None: all, until it is stopped."""
    skip: int = 0
    """How many that fit go by before the first."""
    of: frozenset[str] | None = None
    """Only answers to these commands; None: to any that is not part of setting up a connection."""

    def fits(self, command: str | None) -> bool:
        if self.of is None:
            return command not in SET_UP
        return command in self.of


SET_UP = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT", "READONLY", "READWRITE", "ASKING", "COMMAND"})


class AnswerFault:
    """A fault of the next answers that fit. It says itself how often it has happened."""

    def __init__(self, limit: Limit, then: Then) -> None:
        self.then = then
        self.happened = 0
        """How many answers it has befallen so far."""
        self._limit = limit
        self._taken = 0
        self._over = asyncio.Event()

    @property
    def spent(self) -> bool:
        """Whether it takes no further answer."""
        return self._limit.times is not None and self._taken >= self._limit.times

    def takes(self, command: str | None) -> bool:
        """Whether the answer to this request is one of its; counts it if so. No command: the protocol is not known."""
        if self.spent or not self._limit.fits(command):
            return False
        self._limit.skip -= 1
        if self._limit.skip >= 0:
            return False
        self._taken += 1
        return True

    def befell(self) -> None:
        self.happened += 1
        if self._limit.times is not None and self.happened >= self._limit.times:
            self._over.set()

    def stop(self) -> None:
        """It takes no further answer."""
        self._limit.times = self._taken

    async def over(self, patience: float = 30) -> None:
        """Waits until it has happened as often as it was to."""
        assert self._limit.times is not None, "it goes on until it is stopped"
        async with asyncio.timeout(patience):
            await self._over.wait()

    def left_of(self, answer: bytes) -> bytes:
        """What of an answer the client still reads."""
        raise NotImplementedError


class Swallow(AnswerFault):
    """The request reached the server, and its answer never comes back."""

    def left_of(self, answer: bytes) -> bytes:
        return b""


class Truncate(AnswerFault):
    """The first bytes of the answer come back, and then nothing."""

    def __init__(self, limit: Limit, then: Then, *, after: int) -> None:
        super().__init__(limit, then)
        self._after = after

    def left_of(self, answer: bytes) -> bytes:
        return answer[: min(self._after, len(answer) - 1)]


class Replace(AnswerFault):
    """Another answer comes back in its place."""

    def __init__(self, limit: Limit, *, answer: bytes, executed: bool) -> None:
        """`executed`: the request reaches the server all the same."""
        super().__init__(limit, Then.GO_ON)
        self.executed = executed
        self._answer = answer

    def left_of(self, answer: bytes) -> bytes:
        return self._answer


class Repeat(AnswerFault):
    """What came, comes twice."""

    def left_of(self, answer: bytes) -> bytes:
        return answer * 2
