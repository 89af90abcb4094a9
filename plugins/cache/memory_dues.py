"""Which drafts and titles are due for the plugins: some time after the last edit, and not too long after the first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from sidecar import ChatId, UserHash

Mark = tuple[UserHash, ChatId]


class Dues:
    """A mark per edited chat. Further edits move the mark without touching the heap, which looks again when it gets there."""

    def __init__(self) -> None:
        self._marks: dict[UserHash, dict[ChatId, tuple[float, float]]] = {}
        self._heap: list[tuple[float, int, UserHash, ChatId]] = []
        self._number = 0

    def mark(self, user: UserHash, chat_id: ChatId, first: float, last: float) -> None:
        """Edited at `last`; due no later than `first`, if it was not edited before. Both in seconds, both the time when due."""
        marks = self._marks.get(user)
        if marks is None:
            marks = self._marks[user] = {}
        mark = marks.get(chat_id)
        if mark is None:
            marks[chat_id] = (first, last)
            self._push(min(first, last), user, chat_id)
        else:
            marks[chat_id] = (mark[0], last)

    def remove(self, user: UserHash, chat_id: ChatId) -> None:
        """The chat is gone."""
        marks = self._marks.get(user)
        if marks is not None and marks.pop(chat_id, None) is not None and not marks:
            del self._marks[user]

    def hurry(self, user: UserHash | None) -> None:
        """What this person (None: anybody) edited is due now."""
        users = [user] if user is not None else list(self._marks)
        for each in users:
            marks = self._marks.get(each, {})
            for chat_id in marks:
                if marks[chat_id][0] > 0.0:
                    marks[chat_id] = (0.0, 0.0)
                    self._push(0.0, each, chat_id)

    def take(self, now: float, most: int) -> Iterator[Mark]:
        """What is due, oldest first, at most `most`; its mark goes with it."""
        heap = self._heap
        taken = 0
        while heap and heap[0][0] <= now and taken < most:
            _, _, user, chat_id = heapq.heappop(heap)
            mark = self._marks.get(user, {}).get(chat_id)
            if mark is None:
                continue
            if min(mark) > now:
                self._push(min(mark), user, chat_id)
                continue
            self.remove(user, chat_id)
            taken += 1
            yield user, chat_id

    def _push(self, when: float, user: UserHash, chat_id: ChatId) -> None:
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, user, chat_id))
