"""The frames of a sync's answer, each within the limit of bytes (semantics §6)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import orjson

from sidecar.answers import Answer
from sidecar.cursors import Cursor
from sidecar.ids import ChatId
from sidecar.records import Deleted, rfc3339

AROUND = 8192
"""Room for what stands around the texts and messages of one chat, the frame included."""
_IDS = 200
"""Ids of chats that are missing or deleted in one frame."""
_ID_BYTES = 140


@dataclass(frozen=True, slots=True)
class SyncFrame:
    """One frame of a sync's answer. From `position` on events follow, after `complete`."""

    answer: Answer
    position: Cursor


@dataclass(frozen=True, slots=True)
class Told:
    """What a frame says of chats that it does not hold."""

    missing: tuple[ChatId, ...] = ()
    deleted: tuple[Deleted, ...] = ()

    @property
    def room(self) -> int:
        """Bytes that it takes, at most."""
        return _ID_BYTES * (len(self.missing) + len(self.deleted))

    def deleted_entries(self) -> list[dict[str, str]]:
        return [{"id": gone.chat_id, "deletedAt": rfc3339(gone.at)} for gone in self.deleted]


def told(missing: Sequence[ChatId], deleted: Sequence[Deleted]) -> Iterator[Told]:
    """The same in as many pieces as frames are needed for; at least one, which may say nothing."""
    for start in range(0, max(len(missing), len(deleted), 1), _IDS):
        yield Told(tuple(missing[start : start + _IDS]), tuple(deleted[start : start + _IDS]))


async def packed(bodies: AsyncIterator[bytes], room: int) -> AsyncIterator[list[orjson.Fragment]]:
    """Encoded chats in groups of at most `room` bytes; one that is larger alone stands alone."""
    group: list[orjson.Fragment] = []
    size = 0
    async for body in bodies:
        if group and size + len(body) > room:
            yield group
            group, size = [], 0
        group.append(orjson.Fragment(body))
        size += len(body) + 1
    if group:
        yield group
