"""Calls of scripts, as they stand on the wire: several calls may be one command, and each has its own answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterCrossSlotError,
    InvalidResponse,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from plugins.cache.redis_layout import Script
from plugins.cache.redis_refusals import refusal
from sidecar import Unavailable

_MOST = 32
"""Calls of one command: Redis does nothing else meanwhile, and so many take it about two milliseconds."""

Redirect = MovedError | AskError | TryAgainError


@dataclass(slots=True)
class Call:
    """One script to be run. Every script can be run again: a lost answer is asked for a second time."""

    script: Script
    keys: tuple[bytes, ...]
    arguments: tuple[bytes | int, ...]
    deadline: float
    asking: bool = False
    """It follows an ASK: the server answers for a slot that is on its way to it."""

    def goes_with(self, other: Call, *, apart: bool) -> bool:
        """Whether both may be one command. `apart`: only if their keys lie in one slot, whatever slots are where."""
        return (
            self.script.many
            and self.script is other.script
            and not (self.asking or other.asking)
            and self.arguments[0] == other.arguments[0]
            and not (apart and _tagged(self.keys[0]) != _tagged(other.keys[0]))
        )


def _tagged(key: bytes) -> bytes:
    """A key up to the end of its hash tag."""
    return key[: key.find(b"}") + 1]


@dataclass(frozen=True, slots=True)
class Redirected:
    """The slot is elsewhere."""

    error: Redirect


class Nil:
    """Redis answered nil: the place of an answer that is there and says nothing."""


NIL = Nil()


class Replica(Unavailable):
    """The server takes no writes: it is a replica."""


def commands_of(calls: Sequence[Call], places: Iterable[int], *, apart: bool) -> list[list[int]]:
    """The calls at these places, in their order, those together that are one command; `apart` as in `Call.goes_with`."""
    commands: list[list[int]] = []
    before: Call | None = None
    for place in places:
        call = calls[place]
        if before is not None and len(commands[-1]) < _MOST and call.goes_with(before, apart=apart):
            commands[-1].append(place)
        else:
            commands.append([place])
        before = call
    return commands


def packed(calls: Sequence[Call], command: Sequence[int], *, whole: bool) -> bytes:
    """As it stands on the wire: by the script's hash, or with the script itself where the server does not know it."""
    first = calls[command[0]]
    script = first.script
    words: list[bytes | int] = [b"EVAL", script.text] if whole else [b"EVALSHA", script.sha]
    if len(command) == 1:
        words += (len(first.keys), *first.keys, *first.arguments)
    else:
        words.append(sum(len(calls[place].keys) for place in command))
        for place in command:
            words += calls[place].keys
        words.append(first.arguments[0])
        for place in command:
            words += calls[place].arguments[1:]
    on_wire: bytes = hiredis.pack_command(tuple(words))  # type: ignore[arg-type]  # its stubs take one item for all
    return hiredis.pack_command((b"ASKING",)) + on_wire if first.asking else on_wire


def answers_of(calls: Sequence[Call], commands: Sequence[Sequence[int]]) -> int:
    """How many answers the server gives to these."""
    return len(commands) + sum(calls[command[0]].asking for command in commands)


_NOT_YET: Any = object()


def take(calls: Sequence[Call], commands: Sequence[Sequence[int]], came: Sequence[Any], answers: list[Any]) -> bool:
    """Puts what came into the places of the calls; whether some are to be sent again: with a script that the server does not know,
    or one by one.

    Raises what the server says of itself and not of a call.
    """
    again = False
    each = iter(came)
    for command in commands:
        script, asking = calls[command[0]].script, calls[command[0]].asking
        if asking:
            _asked(next(each, None))
        answer = next(each, _NOT_YET)
        if answer is _NOT_YET:
            break
        if isinstance(answer, RedisError):
            if isinstance(answer, NoScriptError) or crossed(command, answer):
                again = True
                continue
            for place in command:
                answers[place] = _told(answer)
        elif script.many:
            if not isinstance(answer, list) or len(answer) != len(command):
                raise InvalidResponse(f"{len(command)} calls were not answered one by one")
            for place, own in zip(command, answer, strict=True):
                answers[place] = _told(own)
        else:
            answers[command[0]] = NIL if answer is None else answer
    return again


def crossed(command: Sequence[int], answer: Any) -> bool:
    """Whether the calls of this command could not come together, as their keys lie in several slots."""
    return len(command) > 1 and isinstance(answer, ClusterCrossSlotError)


def _told(answer: Any) -> Any:
    """An answer as the caller gets it. Raises what is said of the server and not of the call."""
    if not isinstance(answer, RedisError):
        return NIL if answer is None else answer
    if isinstance(answer, MovedError | AskError | TryAgainError):
        return Redirected(answer)
    if isinstance(answer, ReadOnlyError):
        return Replica("cache", "Redis answers as a replica, which takes no writes", retry_after=0.5)
    if isinstance(answer, ResponseError) and not isinstance(answer, BusyLoadingError):
        return refusal(answer)
    raise answer


def _asked(answer: Any) -> None:
    """The answer to ASKING. A refusal of it is the connection's trouble: the answer to the call itself comes all the same."""
    if isinstance(answer, ResponseError):
        raise RedisError(refusal(answer).reason)
