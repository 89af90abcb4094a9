"""The end of one chat by an operator's hand: `keys-destroy` (semantics §8)."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sidecar.changes import Accepted, DoomChat
from sidecar.chats import bury, own_change, peek
from sidecar.ids import ChatId, UserHash
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, OperationRefused, result
from sidecar.operations.scope import Scope, keys_in, scope_of
from sidecar.operations.work import Work
from sidecar.records import Deleted, rfc3339


async def destroy_chat(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """The whole deletion, as if the person had deleted the chat. Again is the same.

    Result: `count` 1 (0: it was deleted before), `chat`, `user`, `deleted_at`, `known` (False: neither cache nor store knew
    it), `waiting`: what the plugins have still to be told.
    """
    parts = work.parts
    user, chat_id = await _meant(work, scope_of(arguments))
    found = (await peek(parts, user, [chat_id])).get(chat_id)
    if isinstance(found, Deleted):
        gone, count = found, 0
    else:
        outcome = await parts.cache.chats.commit(own_change(parts, user, chat_id, DoomChat()))
        if isinstance(outcome, Accepted) and outcome.deleted is not None:
            gone, count = outcome.deleted, 0
        else:
            gone, count = await bury(parts, user, chat_id, found.key if found is not None else None), 1
    waiting = await work.deliveries([listener.name for listener in work.plugins.listeners])
    yield result(
        count=count,
        chat=chat_id,
        user=user,
        deleted_at=rfc3339(gone.at),
        known=found is not None,
        waiting=waiting,
    )


async def _meant(work: Work, scope: Scope) -> tuple[UserHash, ChatId]:
    if scope.chat is None:
        raise OperationRefused("nothing says which chat is meant", "give --chat; `users erase` erases a whole person")
    if scope.user is not None:
        return scope.user, scope.chat
    owners = {target.user async for target in keys_in(work.parts, scope)}
    if len(owners) != 1:
        raise OperationRefused(
            "nobody has a chat of this id" if not owners else "several persons have a chat of this id", "give --user"
        )
    return owners.pop(), scope.chat
