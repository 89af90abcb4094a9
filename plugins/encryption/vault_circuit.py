"""When a Vault that gives no answer is left alone, and for how long."""

from __future__ import annotations

from time import monotonic

from sidecar import Unavailable

_SHORTEST = 0.1
_LONGEST = 1.0


class Circuit:
    """Open after a call that failed while no other was answered: then one call is let through now and again, the others fail at once.

    So nobody waits out the deadline of a Vault that is known to hang, and it is not run over when it comes back.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        """What is wrong; None while Vault answers."""
        self._next = 0.0
        self._pause = _SHORTEST
        self._answered = 0.0
        self._let_through = 0.0

    def enter(self) -> None:
        """Before a call. Raises `Unavailable` where it is not its turn."""
        if self.reason is None:
            return
        now = monotonic()
        if now < self._next:
            raise Unavailable("encryption", self.reason, retry_after=round(max(self._next - now, _SHORTEST), 3))
        self._next = now + self._pause
        self._let_through = now

    def answered(self) -> None:
        """Vault answered, if only to refuse."""
        self._answered = monotonic()
        self._pause = _SHORTEST
        self.reason = None

    def failed(self, began: float, reason: str) -> None:
        """A call that began then got no answer, or one that says that Vault can serve nobody."""
        now = monotonic()
        if self._answered > began:
            return  # another call was answered meanwhile: it is not Vault that is down
        if self.reason is None:
            self._pause = _SHORTEST
            self._next = now + self._pause
        elif began >= self._let_through:  # not one of those that were under way when it opened
            self._pause = min(self._pause * 2, _LONGEST)
            self._next = now + self._pause
        self.reason = reason
