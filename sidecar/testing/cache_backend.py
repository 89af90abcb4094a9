"""What the contract of a cache may do to the cache's backend."""

from __future__ import annotations


class CacheBackend:
    """A plugin's tests override what their backend can do."""

    can_travel = True
    """Whether `travel` works; without it the tests of lifetimes are skipped."""
    can_break = True
    """Whether `break_backend` works."""

    async def travel(self, seconds: float) -> None:
        """Moves the backend's time ahead."""
        raise NotImplementedError

    async def break_backend(self) -> None:
        """From now on the backend does not answer."""
        raise NotImplementedError
