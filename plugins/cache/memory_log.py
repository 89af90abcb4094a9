"""A person's log: references to what changed, in order, within one epoch."""

from __future__ import annotations

from collections import deque
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from typing import Any

from sidecar import BEGINNING_TAG, Cursor, Item

_FIELDS = tuple(each.name for each in fields(Item))
_packed = attrgetter(*_FIELDS)
_OFFSET = 1 + _FIELDS.index("offset")  # behind the time
_TAG = 1 + _FIELDS.index("tag")


class Log:
    """Grows at its end and is trimmed at its beginning, by number and by age. Nothing here asks the clock."""

    __slots__ = ("_items", "base", "base_tag", "epoch")

    def __init__(self) -> None:
        self.epoch: str | None = None
        """None: there is none yet, or it was given up."""
        self.base = 0
        """Offset of the last entry that was trimmed; 0 if none was."""
        self.base_tag = BEGINNING_TAG
        # As plain tuples, which the garbage collector soon stops looking at: a log has thousands of entries.
        self._items: deque[tuple[Any, ...]] | tuple[()] = ()
        """A deque from the first entry on: most persons who only look have none, and an empty deque has 700 bytes."""

    @property
    def end(self) -> int:
        """Offset of the last entry."""
        return self.base + len(self._items)

    @property
    def head(self) -> Cursor:
        """Where the log stands. The epoch must be there."""
        if self.epoch is None:
            raise AssertionError("a log is asked for its head only after its epoch was begun")
        tag = self._items[-1][_TAG] if self._items else self.base_tag
        return Cursor(self.epoch, self.base + len(self._items), tag)

    def begin(self, epoch: str, base: int = 0, base_tag: str = BEGINNING_TAG) -> None:
        """A new epoch: the log starts anew."""
        self.epoch = epoch
        self.base, self.base_tag = base, base_tag
        self._items = ()

    def append(self, now: float, item: Item) -> None:
        """`item.offset` follows the end."""
        end = self.base + len(self._items)
        if item.offset != end + 1:
            if item.offset <= end:
                return  # read a second time, from an overlap of two generations
            self._items = ()
            self.base, self.base_tag = item.offset - 1, BEGINNING_TAG
        if isinstance(self._items, tuple):
            self._items = deque()
        self._items.append((now, *_packed(item)))

    def trim(self, kept: int, oldest: float) -> None:
        """At most `kept` entries, none made before `oldest` (seconds)."""
        items = self._items
        while isinstance(items, deque) and items and (len(items) > kept or items[0][0] < oldest):
            gone = items.popleft()
            self.base, self.base_tag = gone[_OFFSET], gone[_TAG]

    def tag_at(self, offset: int) -> str | None:
        """The tag of that entry, None where the log does not reach (any more)."""
        if offset == self.base:
            return self.base_tag
        if not self.base < offset <= self.end:
            return None
        tag: str = self._items[offset - self.base - 1][_TAG]
        return tag

    def after(self, offset: int, limit: int) -> tuple[Item, ...]:
        """At most `limit` entries behind `offset`, oldest first."""
        count = self.end - offset
        if count <= 0:
            return ()
        start = len(self._items) - count
        if start < count:
            return tuple(Item(*kept[1:]) for kept in islice(self._items, start, start + limit))
        # Most readers are near the end, and a deque is walked from one of its ends.
        found = list(islice(reversed(self._items), count))
        found.reverse()
        return tuple(Item(*kept[1:]) for kept in found[:limit])

    def timed(self) -> tuple[tuple[float, Item], ...]:
        """Every entry with the time at which it was made."""
        return tuple((kept[0], Item(*kept[1:])) for kept in self._items)
