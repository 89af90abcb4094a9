"""What one plugin still has to hear, in order, and what was parked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice

from sidecar import ChatId, Entry, UserHash

Key = tuple[UserHash, ChatId | None]
"""A person's chat; None stands for the person."""

_TEXTS = ("draft", "title")


class Queue:
    """A plugin's position in the outbox. Entry ids sort in their order; nothing here costs more with more entries waiting."""

    def __init__(self) -> None:
        # Ordered dicts, whose front stays cheap to find after many removals; a plain dict walks over every hole.
        self._waiting: OrderedDict[str, Entry] = OrderedDict()
        self._parked: OrderedDict[str, Entry] = OrderedDict()
        self._users: dict[UserHash, dict[ChatId | None, dict[str, None]]] = {}
        self._parked_of: dict[Key, int] = {}
        # Drafts and titles that nobody was handed yet: the same again need not wait twice, what is delivered is the state
        # at delivery. One that was handed out may be on its way with an older state.
        self._open: dict[tuple[Key, str], str] = {}

    def holds(self, key: Key) -> bool:
        """Whether anything of this chat waits or is parked."""
        chats = self._users.get(key[0])
        return chats is not None and key[1] in chats

    def wants(self, key: Key, kind: str) -> bool:
        """Whether an entry of this kind says anything that is not waiting already."""
        return kind not in _TEXTS or (key, kind) not in self._open

    def parks(self, key: Key) -> bool:
        """Whether something of this chat is parked, and so all that comes later too."""
        return key in self._parked_of

    def add(self, entry: Entry, parked: bool = False) -> None:
        """Appends an entry."""
        key = (entry.user, entry.chat_id)
        if parked:
            self._parked[entry.id] = entry
            self._parked_of[key] = self._parked_of.get(key, 0) + 1
        else:
            self._waiting[entry.id] = entry
        self._users.setdefault(entry.user, {}).setdefault(entry.chat_id, {})[entry.id] = None
        if entry.kind in _TEXTS:
            self._open.setdefault((key, entry.kind), entry.id)

    def get(self, entry_id: str) -> Entry | None:
        """The entry, waiting or parked."""
        return self._waiting.get(entry_id) or self._parked.get(entry_id)

    def remove(self, entry_id: str) -> Key | None:
        """Takes an entry out; its chat, or None if the entry was not here."""
        entry = self._waiting.pop(entry_id, None)
        if entry is None:
            entry = self._parked.pop(entry_id, None)
            if entry is None:
                return None
            self._unpark((entry.user, entry.chat_id))
        key = (entry.user, entry.chat_id)
        chats = self._users[entry.user]
        ids = chats[entry.chat_id]
        del ids[entry_id]
        if not ids:
            del chats[entry.chat_id]
            if not chats:
                del self._users[entry.user]
        if self._open.get((key, entry.kind)) == entry_id:
            del self._open[key, entry.kind]
        return key

    def _unpark(self, key: Key) -> None:
        left = self._parked_of[key] - 1
        if left:
            self._parked_of[key] = left
        else:
            del self._parked_of[key]

    def hand_out(self, limit: int) -> Sequence[Entry]:
        """The oldest that wait."""
        entries = tuple(islice(self._waiting.values(), max(limit, 0)))
        for entry in entries:
            if entry.kind in _TEXTS:
                at = ((entry.user, entry.chat_id), entry.kind)
                if self._open.get(at) == entry.id:
                    del self._open[at]
        return entries

    def set_tries(self, entry_id: str, tries: int) -> None:
        """The entry waits on, tried so often."""
        entry = self._waiting.get(entry_id)
        if entry is not None:
            self._waiting[entry_id] = replace(entry, tries=tries)
            if entry.kind in _TEXTS:
                self._open.setdefault(((entry.user, entry.chat_id), entry.kind), entry_id)

    def following(self, entry_id: str) -> Sequence[str]:
        """This waiting entry and the later ones of its chat."""
        entry = self._waiting.get(entry_id)
        if entry is None:
            return ()
        ids = self._users[entry.user][entry.chat_id]
        return [each for each in ids if each >= entry_id and each in self._waiting]

    def park(self, entry_id: str) -> None:
        """Moves a waiting entry to the parked ones."""
        entry = self._waiting.pop(entry_id, None)
        if entry is not None:
            key = (entry.user, entry.chat_id)
            self._parked[entry_id] = entry
            self._parked_of[key] = self._parked_of.get(key, 0) + 1
            if entry.kind in _TEXTS:
                self._open.setdefault((key, entry.kind), entry_id)

    def replayable(self, ids: Iterable[str], gone: Iterable[str]) -> Sequence[str]:
        """Which of these parked entries may wait again, once `gone` are forgotten: no earlier one of their chat stays parked."""
        wanted, away = set(ids), set(gone)
        blocked: set[Key] = set()
        found: list[str] = []
        for entry_id in sorted(self._parked):
            if entry_id in away:
                continue
            entry = self._parked[entry_id]
            key = (entry.user, entry.chat_id)
            if entry_id in wanted and key not in blocked:
                found.append(entry_id)
            else:
                blocked.add(key)
        return found

    def replay(self, ids: Sequence[str]) -> None:
        """Puts parked entries back in their order, their tries at 0."""
        for entry_id in ids:
            entry = self._parked.pop(entry_id, None)
            if entry is not None:
                self._unpark((entry.user, entry.chat_id))
                self._waiting[entry_id] = replace(entry, tries=0)
        self.sort()

    def sort(self) -> None:
        """Restores the order of ids, after entries came in another one."""
        self._waiting = OrderedDict(sorted(self._waiting.items()))
        self._parked = OrderedDict(sorted(self._parked.items()))
        for chats in self._users.values():
            for chat_id, ids in chats.items():
                chats[chat_id] = dict.fromkeys(sorted(ids))

    def of_chat(self, key: Key) -> Sequence[Entry]:
        """Everything of this chat, in order."""
        return self._entries(self._users.get(key[0], {}).get(key[1], ()))

    def of_user(self, user: UserHash) -> Sequence[Entry]:
        """Everything of this person, chat by chat."""
        return [entry for ids in self._users.get(user, {}).values() for entry in self._entries(ids)]

    def _entries(self, ids: Iterable[str]) -> Sequence[Entry]:
        found = (self.get(each) for each in ids)
        return [entry for entry in found if entry is not None]

    @property
    def parked(self) -> Sequence[Entry]:
        """The parked entries, oldest first."""
        return [self._parked[each] for each in sorted(self._parked)]

    def is_parked(self, entry_id: str) -> bool:
        """Whether this entry is one of them."""
        return entry_id in self._parked

    def everybody(self) -> set[UserHash]:
        """Who has entries here."""
        return set(self._users)

    @property
    def counts(self) -> tuple[int, int, datetime | None]:
        """How many wait, how many are parked, and when the oldest that waits was appended."""
        oldest = next(iter(self._waiting.values()), None)
        return len(self._waiting), len(self._parked), oldest.at if oldest is not None else None
