"""What a command was asked, checked: it may come from a client of another release."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.ids import UserHash
from sidecar.operations.lines import OperationRefused

_HASH = re.compile(r"[0-9a-f]{64}\Z")
_LONGEST = 200
_LONGEST_GRACE = 86_400.0


@dataclass(frozen=True, slots=True)
class Arguments:
    """None and False are what was not given. Keys that are not known here are passed over."""

    user: UserHash | None = None
    chat: str | None = None
    """As it was written: the full id, or with `user` the client's part alone."""
    plugin: str | None = None
    name: str | None = None
    everything: bool = False
    """`all`: everything is meant, said expressly."""
    grace: float = 60.0
    """Seconds between the two looks of `keys-prune`."""

    @property
    def person(self) -> UserHash:
        """The person that the command is about."""
        if self.user is None:
            raise OperationRefused("nothing says who is meant", "give --user")
        return self.user


def read_arguments(given: Mapping[str, object]) -> Arguments:
    """The arguments of a command. Raises `OperationRefused`."""
    user = _text(given, "user")
    if user is not None and not _HASH.match(user):
        raise OperationRefused("`user` is not the hash of a person", "give 64 hex digits, as `users` shows them")
    everything = given.get("all", False)
    if not isinstance(everything, bool):
        raise OperationRefused("`all` is neither true nor false", "give a boolean")
    grace = given.get("grace")
    if grace is None:
        grace = Arguments.__dataclass_fields__["grace"].default
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace <= _LONGEST_GRACE:
        raise OperationRefused("`grace` is no number of seconds", f"give 0 to {math.floor(_LONGEST_GRACE)}")
    return Arguments(
        user=UserHash(user) if user is not None else None,
        chat=_text(given, "chat"),
        plugin=_text(given, "plugin"),
        name=_text(given, "name"),
        everything=everything,
        grace=float(grace),
    )


def _text(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > _LONGEST:
        raise OperationRefused(f"`{name}` is no text of 1 to {_LONGEST} characters", "write it as it is listed")
    return value
