"""New key versions: `keys-rotate` (semantics §8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import structlog

from sidecar.errors import KeyGone, Undecryptable
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, OperationRefused, progress, result
from sidecar.operations.scope import chunks, keys_in, refuse_end_to_end, scope_of
from sidecar.operations.work import Work

_AT_ONCE = 32
"""Rotations under way together; a cipher may write them down in one go."""

log = structlog.get_logger("sidecar.operations")


async def rotate_keys(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """New writes use the new versions, old ones still read. Again makes one more version of each.

    Result: `count` rotated, `destroyed` met on the way, `without_key` (chats that name a key that is not there; in the log).
    """
    refuse_end_to_end(work.parts)
    scope = scope_of(arguments)
    cipher = work.parts.cipher
    count = destroyed = without_key = 0
    async for chunk in chunks(keys_in(work.parts, scope), _AT_ONCE):
        answers = await asyncio.gather(*(cipher.rotate(target.key) for target in chunk), return_exceptions=True)
        for target, answer in zip(chunk, answers, strict=True):
            match answer:
                case None:
                    count += 1
                case KeyGone():
                    destroyed += 1
                case Undecryptable():
                    without_key += 1
                    log.warning("there is no key to rotate", user=target.user, chat=target.chat_id)
                case BaseException():
                    raise answer
        yield progress(count)
    if scope.chat is not None and not (count or destroyed or without_key):
        raise OperationRefused("nobody has a key for a chat of this id", "see that the id is right, or give --user")
    yield result(count=count, destroyed=destroyed, without_key=without_key)
