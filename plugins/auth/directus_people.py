"""Who somebody is, by the service account: status, role, name, second factor. Asked for together, kept for a short while.

`/users/me` answers for people who were suspended or deleted long ago, as long as their token lasts; so nobody is let in on that
alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from plugins.auth.directus_pace import Pace
from sidecar import Batcher

FIELDS = ("id", "status", "role", "first_name", "last_name", "tfa_secret")
"""What is read of a user. `tfa_secret` comes masked: only whether there is one can be seen."""
ACTIVE = "active"
_MOST_KEPT = 50_000
_AT_ONCE = 100
_GATHER_SECONDS = 0.5
"""From one call to the next at least, while many come."""
_READ_AGAIN = 3


@dataclass(frozen=True, slots=True)
class Person:
    user_id: str
    status: str
    role: str | None = None
    name: str | None = field(default=None, repr=False)
    second_factor: bool = False

    @property
    def active(self) -> bool:
        return self.status == ACTIVE


Read = Callable[[Sequence[str]], Awaitable[Mapping[str, Person]]]


class People:
    """Asks for up to 100 people in one call, one call at a time: a thousand who come at once are ten calls.

    They gather for a moment while the pace is busy, and are asked for at once while it is not.
    """

    def __init__(
        self, read: Read, *, kept: Callable[[], float], pace: Pace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`read` answers for those it finds; one that is not among them does not exist. `kept`: how many seconds an answer is good now.

        `pace` counts these calls and holds up none of them: whoever is read has waited for the turn already, if there was a line.
        """
        self._read = read
        self._kept = kept
        self._pace = pace
        self._clock = clock
        self._known: dict[str, tuple[Person, float]] = {}
        self._ask: Batcher[str, Person | None] = Batcher(self._send, most=_AT_ONCE, pause=self._pause)
        self._last_read = -_GATHER_SECONDS
        self._asking: dict[str, asyncio.Future[Person | None]] = {}
        self._asked: Sequence[str] = ()
        self._dropped: set[str] = set()
        """Dropped since they were asked for."""

    async def find(self, user_id: str, *, fresh: bool = False) -> Person | None:
        """The person; None if there is none of that id. `fresh`: as Directus says now. Raises what `read` raises."""
        if not fresh:
            known = self._known.get(user_id)
            if known is not None and self._clock() - known[1] < self._kept():
                return known[0]
        answer = self._asking.get(user_id)
        if answer is None:
            answer = self._asking[user_id] = self._ask.ask(user_id)
            answer.add_done_callback(partial(self._answered, user_id))
        return await asyncio.shield(answer)  # whoever goes away takes it from nobody else

    def _answered(self, user_id: str, answer: asyncio.Future[Person | None]) -> None:
        self._asking.pop(user_id, None)
        if not answer.cancelled():
            answer.exception()  # whoever asked may have gone, and it is nobody's then

    def drop(self, user_ids: Collection[str] | None = None) -> None:
        """Forgets them (None: everybody)."""
        for user_id in list(self._known) if user_ids is None else user_ids:
            self._known.pop(user_id, None)
        self._dropped.update(self._asked if user_ids is None else user_ids)

    def _pause(self) -> float:
        return self._last_read + _GATHER_SECONDS - self._clock() if self._pace.busy else 0.0

    async def _send(self, user_ids: Sequence[str]) -> Sequence[Person | None]:
        self._asked = user_ids
        for _ in range(_READ_AGAIN):
            self._dropped = set()
            started = self._last_read = self._clock()
            self._pace.count()
            found = await self._read(self._asked)
            if self._dropped.isdisjoint(self._asked):
                self._keep(found, started)
                break
            # Somebody was changed while being read: what was read may be older.
        return [found.get(user_id) for user_id in user_ids]

    def _keep(self, found: Mapping[str, Person], when: float) -> None:
        for user_id, person in found.items():
            self._known.pop(user_id, None)
            self._known[user_id] = person, when
        while len(self._known) > _MOST_KEPT:
            del self._known[next(iter(self._known))]


def person_of(row: Mapping[str, Any], names: str) -> Person | None:
    """A row of `directus_users`; `names` is `full`, `first` or `none`. None for what is no such row."""
    user_id, status = row.get("id"), row.get("status")
    if not isinstance(user_id, str) or not user_id or not isinstance(status, str):
        return None
    role = row.get("role")
    parts = {"full": ("first_name", "last_name"), "first": ("first_name",)}.get(names, ())
    words = [value.strip() for part in parts if isinstance(value := row.get(part), str) and value.strip()]
    return Person(
        user_id,
        status,
        role if isinstance(role, str) else None,
        " ".join(words) or None,
        row.get("tfa_secret") is not None,
    )
