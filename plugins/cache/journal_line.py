"""One record of the journal while it is written: the effects of one atomic step, each said absolutely.

Absolute ("the chat is now …", not "one more"), so that reading twice does no harm and a changed rule cannot change the past.
Every effect is a JSON list that begins with its name; bytes stand beside the header and are named by their number.
`memory_replay.py` reads what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any

import orjson

from plugins.cache.journal_reader import FORMAT
from sidecar import (
    ChatId,
    ChatInCache,
    Deleted,
    Entry,
    Item,
    MessageInCache,
    Remembered,
    Replaced,
    UserHash,
)

CHAT_FIELDS = tuple(
    each.name for each in fields(ChatInCache) if each.name not in ("user", "title", "draft", "messages")
)
MESSAGE_FIELDS = tuple(
    name for name in MessageInCache.model_fields if name not in ("content", "chat_id", "hashed_user_id")
)
REMEMBERED_FIELDS = tuple(each.name for each in fields(Remembered) if each.name not in ("digest", "replaced"))
ITEM_FIELDS = tuple(each.name for each in fields(Item))

_chat = itemgetter(*CHAT_FIELDS)
_message = itemgetter(*MESSAGE_FIELDS)
_remembered = attrgetter(*REMEMBERED_FIELDS)
_item = attrgetter(*ITEM_FIELDS)


def generation(joined: Sequence[str], entry: int, fence: int, at: float) -> bytes:
    """The first record of a file: its format, the columns that follow, and what belongs to no person.

    `entry` is the number of the outbox's last entry, `fence` one above all that were or will be given out until then.
    """
    return orjson.dumps(
        {
            "at": at,
            "format": FORMAT,
            "chat": CHAT_FIELDS,
            "message": MESSAGE_FIELDS,
            "outcome": REMEMBERED_FIELDS,
            "item": ITEM_FIELDS,
            "joined": joined,
            "entry": entry,
            "fence": fence,
        }
    )


class Line:
    """Effects on one person (or, without one, on the outbox alone), in the order in which they take place."""

    __slots__ = ("blobs", "effects")

    def __init__(self) -> None:
        self.effects: list[Sequence[Any]] = []
        self.blobs: list[bytes] = []

    def header(self, user: UserHash | None, now: float) -> bytes:
        """The record's header; its blobs are `blobs`."""
        return orjson.dumps({"at": now, "user": user, "do": self.effects, "blobs": [len(blob) for blob in self.blobs]})

    def chat(self, chat: ChatInCache, before: ChatInCache | None) -> None:
        """The chat is now this. Of its messages only what differs from `before`, which the journal has.

        Without `before` it is told whole, but for the messages that the store has and that are older than any other.
        """
        if before is None:
            self._chat(chat, True, _not_stored(chat.messages), (), ())
        elif before.messages is chat.messages:
            self._chat(chat, False, (), (), ())
        else:
            self._chat(chat, False, *_difference(before.messages, chat.messages))

    def chat_whole(self, chat: ChatInCache) -> None:
        """The chat is now this, with every message that is here."""
        self._chat(chat, True, chat.messages, (), ())

    def _chat(
        self,
        chat: ChatInCache,
        whole: bool,
        put: Sequence[MessageInCache],
        status: Sequence[tuple[str, str]],
        gone: Sequence[str],
    ) -> None:
        self.effects.append(
            (
                "chat",
                _chat(chat.__dict__),
                self._blob(chat.title),
                self._blob(chat.draft),
                whole,
                len(chat.messages),
                [(*_message(message.__dict__), self._blob(message.content)) for message in put],
                status,
                gone,
            )
        )

    def gone(self, chat_id: ChatId) -> None:
        """The chat is not here any more; nothing is said of its deletion."""
        self.effects.append(("gone", chat_id))

    def tombstone(self, deleted: Deleted, since: float) -> None:
        """The chat was deleted; its entries in the outbox went, but for those that say so. Kept since `since`."""
        self.effects.append(("tombstone", deleted.chat_id, deleted.at, since))

    def outcome(self, operation: str, outcome: Remembered, since: float) -> None:
        """What became of an operation."""
        replaced = None if outcome.replaced is None else self._replaced(outcome.replaced)
        self.effects.append(("outcome", operation, since, outcome.digest.hex(), _remembered(outcome), replaced))

    def _replaced(self, replaced: Replaced) -> Sequence[Any]:
        return (
            self._blob(replaced.draft),
            replaced.draft_version,
            replaced.draft_op,
            self._blob(replaced.title),
            replaced.title_version,
            replaced.title_op,
        )

    def forgotten(self, operation: str) -> None:
        """The outcome of this operation holds no longer."""
        self.effects.append(("forgotten", operation))

    def epoch(self, epoch: str, base: int, base_tag: str) -> None:
        """The log begins in this epoch, behind this offset."""
        self.effects.append(("epoch", epoch, base, base_tag))

    def item(self, item: Item, since: float) -> None:
        """An entry of the log."""
        self.effects.append(("item", since, _item(item)))

    def entry(self, entry: Entry, waiting: Sequence[tuple[str, int]], parked: Sequence[str]) -> None:
        """An entry of the outbox: where it waits, after how many tries, and where it is parked."""
        self.effects.append(
            (
                "entry",
                entry.id,
                entry.user,
                entry.chat_id,
                entry.kind,
                entry.message_id,
                entry.at,
                waiting,
                parked,
            )
        )

    def passed(self, plugin: str, ids: Sequence[str]) -> None:
        """The plugin is done with these entries, parked ones too."""
        self.effects.append(("passed", plugin, ids))

    def tried(self, plugin: str, tries: Iterable[tuple[str, int]]) -> None:
        """These entries wait and have been tried so often."""
        self.effects.append(("tried", plugin, list(tries)))

    def parked(self, plugin: str, ids: Sequence[str]) -> None:
        """These entries are parked."""
        self.effects.append(("parked", plugin, ids))

    def joined(self, plugins: Sequence[str]) -> None:
        """These plugins listen."""
        self.effects.append(("joined", plugins))

    def left(self, plugin: str) -> None:
        """The plugin's position is forgotten."""
        self.effects.append(("left", plugin))

    def reset(self) -> None:
        """Everything of this person goes, entries of the outbox too; what follows is all there is."""
        self.effects.append(("reset",))

    def _blob(self, blob: bytes | None) -> int | None:
        if blob is None:
            return None
        self.blobs.append(blob)
        return len(self.blobs) - 1


def _not_stored(messages: tuple[MessageInCache, ...]) -> tuple[MessageInCache, ...]:
    """From the first that the store has not got: what is read back has no gap."""
    first = next((place for place, message in enumerate(messages) if message.status != "delivered"), len(messages))
    return messages[first:]


def _difference(
    before: tuple[MessageInCache, ...], after: tuple[MessageInCache, ...]
) -> tuple[list[MessageInCache], list[tuple[str, str]], list[str]]:
    """New messages, changed statuses, and the ids of those that left."""
    known = {message.id: message for message in before}
    put: list[MessageInCache] = []
    status: list[tuple[str, str]] = []
    for message in after:
        was = known.pop(message.id, None)
        if was is message:
            continue
        if was is None or was.sequence != message.sequence or was.content is not message.content:
            put.append(message)
        else:
            status.append((message.id, message.status))
    return put, status, list(known)
