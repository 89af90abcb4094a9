"""Which sessions are open in this process, as far as the core has shown them: it tells of a sign-in and of each look, and of no end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from plugins.auth.directus_tokens import Token

_SHOWN_AGAIN = 150.0
"""The core looks at every open session once a minute: one that it has not shown for so long is over."""
_SWEEP = 60.0


@dataclass(slots=True)
class _Open:
    token: Token
    shown: float


class OpenSessions:
    """Tokens in memory alone, by person and session."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, dict[str, _Open]] = {}
        self._swept = clock()

    def shown(self, user_id: str, token: Token) -> None:
        """The core has this session open now."""
        now = self._clock()
        self._open.setdefault(user_id, {})[token.session_id] = _Open(token, now)
        if now - self._swept >= _SWEEP:
            self._sweep(now)

    def ended(self, user_id: str, token: Token) -> None:
        """It is over."""
        sessions = self._open.get(user_id, {})
        sessions.pop(token.session_id, None)
        if not sessions:
            self._open.pop(user_id, None)

    def tokens(self, user_id: str) -> Collection[Token]:
        """Those of this person."""
        return [each.token for each in self._open.get(user_id, {}).values()]

    def users(self) -> Collection[str]:
        self._sweep(self._clock())
        return list(self._open)

    def _sweep(self, now: float) -> None:
        self._swept = now
        for user_id, sessions in list(self._open.items()):
            for name, each in list(sessions.items()):
                if now - each.shown > _SHOWN_AGAIN:
                    del sessions[name]
            if not sessions:
                del self._open[user_id]
