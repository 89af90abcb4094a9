"""Fill tokens: proof that the store was asked and nothing happened to a chat since (semantics §7)."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable

from sidecar import ChatId

_LIFE = 60.0
_MOST = 1000  # per person; the oldest goes first, its fill is then simply not installed


class Tokens:
    """The tokens of one person. An accepted change, an eviction or a drop of a chat spoils those that were given out before."""

    __slots__ = ("_given", "_number", "_spoilt")

    def __init__(self) -> None:
        # Both made when they are needed: most persons have no token out.
        self._given: OrderedDict[str, tuple[int, float, frozenset[ChatId]]] | None = None
        self._spoilt: dict[ChatId, int] | None = None
        self._number = 0

    def give(self, ids: Iterable[ChatId], now: float) -> str:
        """A token for these chats, valid 60 s."""
        self.expire(now)
        if self._given is None:
            self._given = OrderedDict()
        if len(self._given) >= _MOST:
            self._given.popitem(last=False)
        self._number += 1
        value = os.urandom(12).hex()
        self._given[value] = (self._number, now + _LIFE, frozenset(ids))
        return value

    def spoil(self, chat_id: ChatId) -> None:
        """Something happened to this chat: no token that is out holds for it any more."""
        if self._given:
            if self._spoilt is None:
                self._spoilt = {}
            self._spoilt[chat_id] = self._number

    def holds(self, value: str, chat_id: ChatId, now: float) -> bool:
        """Whether the token is still proof for this chat."""
        given = self._given.get(value) if self._given is not None else None
        if given is None or given[1] <= now or chat_id not in given[2]:
            return False
        return self._spoilt is None or self._spoilt.get(chat_id, 0) < given[0]

    def expire(self, now: float) -> None:
        """Forgets what is over."""
        while self._given and next(iter(self._given.values()))[1] <= now:
            self._given.popitem(last=False)
        if not self._given:
            self._given = self._spoilt = None

    def __bool__(self) -> bool:
        return bool(self._given)
