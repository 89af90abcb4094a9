"""Keys of drafts that never became chats: `keys-prune` (semantics §8).

Forgotten, not destroyed: a device that was offline all the while may still hold the draft. It restores it then, under a
new key; the mark of a destroyed key would tell it that the chat was deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from sidecar.errors import KeyGone
from sidecar.ids import ChatId, UserHash
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, progress, result
from sidecar.operations.scope import Target, chunks, listed_keys, refuse_end_to_end, scope_of
from sidecar.operations.work import Work
from sidecar.parts import Parts

_PAGE = 200
_COMMIT_SECONDS = 5.0
"""Longer than it takes from the sealing of a draft to its commit."""


async def prune_keys(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Drops the keys whose chat neither cache nor store knows, now and `grace` seconds later. Result: `count`, `kept` of those meanwhile."""
    parts = work.parts
    refuse_end_to_end(parts)
    scope = scope_of(arguments)
    orphans: list[Target] = []
    async for chunk in chunks(listed_keys(parts, scope), _PAGE):
        orphans += await _unknown(parts, chunk)
        await asyncio.sleep(0)
    for target in orphans:
        # Who uses one of them during the grace time puts it here again.
        parts.references.drop(target.user, target.chat_id)
    yield progress(0, len(orphans))
    # A chat that begins has its key a moment before its record; a lost cache gets its drafts back from the devices.
    end = asyncio.get_running_loop().time() + arguments.grace
    while orphans and (left := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(left, 1.0))
        yield progress(0, len(orphans))  # who asked may have gone: then nothing is forgotten
    forgotten: list[Target] = []
    for start in range(0, len(orphans), _PAGE):
        unknown = await _unknown(parts, orphans[start : start + _PAGE])
        forgotten += [target for target in unknown if await _forget(parts, target)]
        yield progress(min(start + _PAGE, len(orphans)), len(orphans))
    back = 0
    if forgotten:
        # What another process had sealed before, it commits after our last look: a little later is late enough.
        await asyncio.sleep(min(arguments.grace, _COMMIT_SECONDS))
        back = await _begin_again(parts, forgotten)
    count = len(forgotten) - back
    yield result(count=count, kept=len(orphans) - count)


async def _unknown(parts: Parts, targets: Sequence[Target]) -> list[Target]:
    """Those whose chat neither cache nor store knows. Raises `Unavailable`: who cannot be asked has not said no."""
    users: dict[UserHash, list[ChatId]] = {}
    for target in targets:
        users.setdefault(target.user, []).append(target.chat_id)
    known: set[tuple[UserHash, ChatId]] = set()
    for user, ids in users.items():
        known.update((user, chat_id) for chat_id in await parts.cache.chats.read(user, ids))
        known.update((user, chat_id) for chat_id in await parts.store.known(user, ids))
    return [target for target in targets if (target.user, target.chat_id) not in known]


async def _begin_again(parts: Parts, forgotten: Sequence[Target]) -> int:
    """Keys for the chats that are known after all, and how many: they can be written again, and their devices hold the text."""
    count = 0
    for start in range(0, len(forgotten), _PAGE):
        page = forgotten[start : start + _PAGE]
        unknown = set(await _unknown(parts, page))
        for target in page:
            if target in unknown:
                continue
            try:
                await parts.cipher.begin(target.user, target.chat_id)
            except KeyGone:
                continue  # and deleted since
            count += 1
    return count


async def _forget(parts: Parts, target: Target) -> bool:
    """Forgets the key, unless its chat has come into use."""
    user, chat_id = target.user, target.chat_id
    if parts.references.get(user, chat_id) is not None or not await _unknown(parts, [target]):
        return False
    await parts.cipher.forget(target.key)
    if parts.references.get(user, chat_id) is not None or not await _unknown(parts, [target]):
        # It came into use in this very moment: with a key it can be written again, and its device holds the text.
        parts.references.drop(user, chat_id)
        await parts.cipher.begin(user, chat_id)
        return False
    return True
