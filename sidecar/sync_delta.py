"""Sync by a cursor that the log covers: what changed since, coalesced per chat (semantics §6)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from sidecar.answers import Answer
from sidecar.changes import ChatInCache
from sidecar.chats import Found, bury, peek
from sidecar.cursors import Events, Item
from sidecar.errors import KeyGone
from sidecar.ids import ChatId, MessageId, UserHash
from sidecar.merge import delivered
from sidecar.pages import messages_before
from sidecar.parts import Parts
from sidecar.records import Deleted, MessageInCache
from sidecar.responses import ENVELOPE, chat_response
from sidecar.sync_frames import AROUND, SyncFrame, Told, packed, told
from sidecar.sync_held import Held, draft_differs, messages_differ, title_differs

_MESSAGES = 50
"""Messages of a chat of which it is not known which changed: the newest."""


@dataclass(slots=True)
class _Changed:
    draft: bool = False
    title: bool = False
    messages: bool = False
    message_ids: dict[MessageId, None] | None = None
    """The messages that changed; None with `messages`: the newest, whichever they are."""


class Delta:
    """The answer to one client whose cursor holds."""

    def __init__(
        self,
        parts: Parts,
        user: UserHash,
        events: Events,
        held: Held,
        found: Mapping[ChatId, Found],
        deleted: Sequence[Deleted],
    ) -> None:
        self._parts = parts
        self._user = user
        self._head = events.head
        self._held = held
        self._found = dict(found)
        self._deleted = list(deleted)
        self._changed = _coalesced(events.items)

    async def frames(self) -> AsyncIterator[SyncFrame]:
        """One run of `sync_delta`. Raises `Unavailable`."""
        await self._compare()
        *pieces, last = told((), self._deleted)
        for piece in pieces:
            yield self._frame([], piece)
        group: list[orjson.Fragment] = []
        async for following in packed(self._bodies(), self._parts.settings.sync_frame - ENVELOPE - last.room):
            if group:
                yield self._frame(group, Told())
            group = following
        yield self._frame(group, last, complete=True)

    async def _compare(self) -> None:
        """What changed by the log, and what the client named and is otherwise here."""
        unread = [chat_id for chat_id in self._changed if chat_id not in self._found]
        self._found.update(await peek(self._parts, self._user, unread))
        for chat_id, named in self._held.items():
            chat = self._found.get(chat_id)
            if isinstance(chat, ChatInCache):
                draft, title = draft_differs(named, chat), title_differs(named, chat)
                messages = messages_differ(named, chat)
                if not (draft or title or messages):
                    continue
                change = self._changed.setdefault(chat_id, _Changed())
                change.draft |= draft
                change.title |= title
                change.messages |= messages
        said = {gone.chat_id for gone in self._deleted}
        for chat_id in self._changed:
            chat = self._found.get(chat_id)
            if isinstance(chat, Deleted) and chat_id not in said:
                self._deleted.append(chat)

    async def _bodies(self) -> AsyncIterator[bytes]:
        for chat_id, change in self._changed.items():
            chat = self._found.get(chat_id)
            if not isinstance(chat, ChatInCache):
                continue
            response = await self._opened(chat, change)
            if response is not None:
                yield orjson.dumps(response)

    async def _opened(self, chat: ChatInCache, change: _Changed) -> dict[str, Any] | None:
        parts = self._parts
        messages: list[MessageInCache] | None = None
        more = False
        if change.messages and change.message_ids is None:
            messages, more = await messages_before(parts, chat, None, _MESSAGES)
        elif change.messages and change.message_ids is not None:
            kept = {message.id: message for message in chat.messages}
            others = [message_id for message_id in change.message_ids if message_id not in kept]
            if others:
                stored = await parts.store.find(chat.user, chat.id, others)
                kept.update({message_id: delivered(message) for message_id, message in stored.items()})
            messages = sorted(
                (kept[message_id] for message_id in change.message_ids if message_id in kept),
                key=lambda message: message.sequence,
            )
            more = chat.older
        budget = parts.settings.sync_frame - AROUND
        try:
            return await chat_response(
                parts, chat, draft=change.draft, title=change.title, messages=messages, more=more, budget=budget
            )
        except KeyGone:
            await bury(parts, chat.user, chat.id, chat.key)  # the deletion follows as an event
            return None

    def _frame(self, chats: Sequence[orjson.Fragment], piece: Told, *, complete: bool = False) -> SyncFrame:
        payload = {
            "chats": list(chats),
            "missing": list(piece.missing),
            "deleted": piece.deleted_entries(),
            "cursor": str(self._head),
            "complete": complete,
        }
        return SyncFrame(Answer("sync_delta", payload), self._head)


def _coalesced(items: Sequence[Item]) -> dict[ChatId, _Changed]:
    """By chat. One of which only the durability changed is there too, with nothing to send of its texts."""
    changed: dict[ChatId, _Changed] = {}
    for item in items:
        if item.chat_id is None:
            continue
        change = changed.setdefault(item.chat_id, _Changed())
        match item.kind:
            case "draft":
                change.draft = True
            case "title":
                change.title = True
            case "message" | "message_update":
                if not change.messages:
                    change.messages, change.message_ids = True, {}
                if change.message_ids is not None and item.ref is not None:
                    change.message_ids[MessageId(item.ref)] = None
            case "message_deleted":
                # What a device holds is compared with the record: which of its messages are gone it learns from a whole chat.
                change.messages, change.message_ids = True, None
            case "added" | "restored":
                change.draft = change.title = True
            case _:
                pass
    return changed
