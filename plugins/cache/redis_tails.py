"""What this process knows of the logs of its connected persons without asking: the ends, and the newest entries.

Every step tells where in the log it stands. A step that follows the one before is appended to a tail, one that does not
shows a gap, and the log in Redis is asked. So a notice that was lost, came twice or came late costs a question and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plugins.cache.redis_changes import Step
from sidecar import ChatId, ChatInCache, Cursor, Deleted, Fresh, UserHash

_KEPT = 256
"""Entries of a tail; a feed that lags more asks the log."""


@dataclass(slots=True)
class _Tail:
    start: Cursor
    end: Cursor
    steps: list[Step] = field(default_factory=list)

    def records(self) -> dict[ChatId, ChatInCache | Deleted]:
        """The chats of the entries as they are now, with the messages that the entries name."""
        records: dict[ChatId, ChatInCache | Deleted] = {}
        unread: set[ChatId] = (
            set()
        )  # one of the entries came without its record: none of a later step has what that entry names
        for step in self.steps:
            record = step.record
            for chat_id in {item.chat_id for item in step.items if item.chat_id is not None}:
                if record is None:
                    records.pop(chat_id, None)  # an older one would tell the entry wrongly
                    unread.add(chat_id)
                if record is None or chat_id in unread:
                    continue
                before = records.get(chat_id)
                if isinstance(before, ChatInCache) and isinstance(record, ChatInCache) and before.messages:
                    named = {message.id: message for message in (*before.messages, *record.messages)}
                    record = record.having(messages=tuple(named.values()))
                records[chat_id] = record
        return records

    def is_past(self, place: Cursor) -> bool:
        """Whether everything here comes before this place of the same epoch, or at it."""
        return self.end.epoch == place.epoch and self.end.offset <= place.offset


class Tails:
    """The tails of the persons that are followed. Belongs to one event loop."""

    def __init__(self) -> None:
        self._followed: dict[UserHash, int] = {}
        self._heads: dict[UserHash, Cursor] = {}
        self._tails: dict[UserHash, _Tail] = {}

    @property
    def followed(self) -> list[UserHash]:
        return list(self._followed)

    def follow(self, user: UserHash) -> bool:
        """Somebody wants to hear of this person; True for the first."""
        self._followed[user] = self._followed.get(user, 0) + 1
        return self._followed[user] == 1

    def unfollow(self, user: UserHash) -> bool:
        """True when nobody wants to hear of this person any more."""
        left = self._followed.get(user, 0) - 1
        if left > 0:
            self._followed[user] = left
            return False
        self._followed.pop(user, None)
        self._heads.pop(user, None)
        self._tails.pop(user, None)
        return True

    def follows(self, user: UserHash) -> bool:
        return user in self._followed

    def head(self, user: UserHash) -> Cursor | None:
        """The end of the log, as far as it is known here: for `saw`."""
        return self._heads.get(user)

    def saw(self, user: UserHash, head: Cursor, before: Cursor | None) -> bool:
        """The log ends there, as Redis said; whether that is news. `before` is what `head` said when Redis was asked.

        Steps come another way and overtake the answer, which must not take back what they told: who stands at the answer's
        end would pass over them until the next look. An end before one that was known when it was asked for is the cache's
        that went back, and is believed.
        """
        known = self._heads.get(user)
        if user not in self._followed or known == head:
            return False
        if known is not None and known != before:
            if known.epoch == head.epoch and head.offset < known.offset:
                return False
            if known.epoch != head.epoch or head.offset == known.offset:
                del self._heads[user]  # which of the two is the newer one only the log can tell
                return True
        self._heads[user] = head
        return True

    def grown(self, user: UserHash, after: Cursor) -> bool:
        """Whether the log may go on behind `after`, which is where whoever asks stands: what came before it was told."""
        self._forget_told(user, after)
        head = self._heads.get(user)
        return head is None or head != after

    def _forget_told(self, user: UserHash, after: Cursor) -> None:
        """What was told otherwise would look like the beginning of a gap to every step that follows."""
        tail = self._tails.get(user)
        if tail is not None and tail.is_past(after):
            del self._tails[user]

    def add(self, user: UserHash, step: Step) -> None:
        """A step of this person's log, of this process or as another told it."""
        if user not in self._followed:
            return
        head = self._heads.get(user)
        tail = self._tails.get(user)
        start, end = step.start, step.end
        if tail is not None and end.epoch == tail.end.epoch and end.offset <= tail.end.offset:
            return  # a notice that came twice, or late
        if head is None or head.epoch != end.epoch or head.offset < end.offset:
            self._heads[user] = end
        if tail is None or tail.end != start:
            if tail is not None and tail.end.epoch == end.epoch and tail.steps:
                return  # a gap: what is here goes on to be told, and then the log is asked
            tail = self._tails[user] = _Tail(start, start)
        if end != start:
            tail.steps.append(step)
        tail.end = end
        if end.offset - tail.start.offset > _KEPT:
            del self._tails[user]

    def behind(self, user: UserHash, after: Cursor, limit: int) -> Fresh | None:
        """The entries behind `after`, where they are here; None: the log has to be asked."""
        self._forget_told(user, after)
        tail = self._tails.get(user)
        if tail is None or not tail.steps:
            return None
        skipped = after.offset - tail.start.offset
        known = [item for step in tail.steps for item in step.items]
        if after != tail.start:
            if after.epoch != tail.end.epoch or not 0 < skipped < len(known):
                return None
            if known[skipped - 1].tag != after.tag:
                return None
        items = tuple(known[skipped : skipped + limit])
        head = Cursor(tail.end.epoch, items[-1].offset, items[-1].tag)
        records = tail.records()
        if head == tail.end:
            del self._tails[user]  # told: whoever asks for them again asks the log
        return Fresh(items, head, records)
