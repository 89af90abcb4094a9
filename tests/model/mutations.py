"""Promises broken on purpose, one at a time: each of these must make a short run of the model fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

import plugins.cache.memory_chats
import sidecar.events
import sidecar.feed
import sidecar.rule
import sidecar.rule.messages
import sidecar.rule.restoring
import sidecar.rule.texts
from plugins.cache.journal_line import Line
from plugins.cache.memory_person import Person
from plugins.cache.memory_state import State
from sidecar import ChatId, ChatInCache, Deleted, KeyReference, UserHash
from sidecar.changes import AddMessage, Change, Decision, Limits, PutDraft, PutTitle, Replaced, Restore, View
from sidecar.chats import Found
from sidecar.cursors import Item
from sidecar.parts import Parts
from sidecar.rule.restoring import restore
from sidecar.rule.storing import mark_stored
from sidecar.rule.texts import put_draft, put_title
from tests.model.weather import QuickCipher

Patch = pytest.MonkeyPatch


def no_base_check(patch: Patch) -> None:
    """The last writer wins (lesson L1)."""

    def accept(view: View, change: Change, what: PutDraft, limits: Limits) -> Decision:
        if view.chat is not None:
            what = replace(what, base_version=view.chat.version, base_op=view.chat.draft_op)
        return put_draft(view, change, what, limits)

    patch.setattr(sidecar.rule, "put_draft", accept)


def no_operation_in_the_base(patch: Patch) -> None:
    """Only numbers are compared: after a loss two texts meet as equal (S67)."""

    def accept(view: View, change: Change, what: PutDraft, limits: Limits) -> Decision:
        return put_draft(view, change, replace(what, base_op=None), limits)

    patch.setattr(sidecar.rule, "put_draft", accept)


def version_reset_on_clearing(patch: Patch) -> None:
    """A cleared draft begins anew at 1 (lesson L2)."""

    def reset(view: View, change: Change, what: PutDraft, limits: Limits) -> Decision:
        decision = put_draft(view, change, what, limits)
        if what.content is not None or decision.chat is None or decision.chat.doomed:
            return decision
        chat = decision.chat.having(version=1)
        outcome: Any = decision.outcome
        outcome = replace(outcome, version=1, chat=chat)
        return replace(decision, chat=chat, outcome=outcome)

    patch.setattr(sidecar.rule, "put_draft", reset)


def titles_share_the_draft_version(patch: Patch) -> None:
    """A title moves the draft's version as well (S25)."""

    def both(view: View, change: Change, what: PutTitle, limits: Limits) -> Decision:
        decision = put_title(view, change, what, limits)
        if decision.chat is None:
            return decision
        return replace(decision, chat=decision.chat.having(version=decision.chat.version + 1))

    patch.setattr(sidecar.rule, "put_title", both)


def sending_does_not_consume(patch: Patch) -> None:
    """The draft stays after it was sent (S23)."""

    def stay(chat: ChatInCache, change: Change, what: AddMessage) -> tuple[ChatInCache, bool, Replaced | None]:
        return chat, False, None

    patch.setattr(sidecar.rule.messages, "_consume", stay)


def sending_always_consumes(patch: Patch) -> None:
    """A newer draft goes with the message as well (S70)."""
    consume = sidecar.rule.messages._consume

    def always(chat: ChatInCache, change: Change, what: AddMessage) -> tuple[ChatInCache, bool, Replaced | None]:
        if what.draft_version is not None and what.draft_version < chat.version and chat.draft is not None:
            what = replace(what, draft_version=chat.version, draft_op=chat.draft_op)
        return consume(chat, change, what)

    patch.setattr(sidecar.rule.messages, "_consume", always)


def restore_overwrites(patch: Patch) -> None:
    """What a device brings back takes the place of what is newer."""

    def overwrite(view: View, change: Change, what: Restore, limits: Limits) -> Decision:
        if view.chat is not None and what.draft is not None and what.draft.version < view.chat.version:
            view = replace(view, chat=view.chat.having(version=what.draft.version - 1))
        return restore(view, change, what, limits)

    patch.setattr(sidecar.rule, "restore", overwrite)


def restore_keeps_silent(patch: Patch) -> None:
    """What gave way to a restore is not given back."""
    patch.setattr(sidecar.rule.restoring, "Replaced", lambda *_: Replaced())


def deletions_are_forgotten(patch: Patch) -> None:
    """Neither a tombstone nor the key's mark stays (S68)."""

    def forget(self: State, person: Person, deleted: Deleted, since: float) -> None:
        self.let_go(person, deleted.chat_id)

    async def destroy(self: QuickCipher, key: KeyReference) -> None:
        self._ring.keys.pop(key, None)

    patch.setattr(State, "bury", forget)
    patch.setattr(QuickCipher, "destroy", destroy)


def outcomes_are_forgotten(patch: Patch) -> None:
    """The same operation again is carried out again (S14)."""
    patch.setattr(Person, "remember", lambda *_: None)


def events_are_dropped(patch: Patch) -> None:
    """One event in five does not leave."""
    event_frames = sidecar.events.event_frames
    count = 0

    async def some(
        parts: Parts, user: UserHash, epoch: str, items: Sequence[Item], records: Mapping[ChatId, Found]
    ) -> list[bytes | None]:
        nonlocal count
        frames = await event_frames(parts, user, epoch, items, records)
        for place in range(len(frames)):
            count += 1
            if count % 5 == 0:
                frames[place] = None
        return frames

    patch.setattr(sidecar.feed, "event_frames", some)


def the_journal_forgets_chats(patch: Patch) -> None:
    """What was answered does not survive a kill."""
    patch.setattr(Line, "chat", lambda *_: None)


def stored_before_it_is(patch: Patch) -> None:
    """Devices are told that everything is stored as soon as anything is."""

    def all_of_it(chat: ChatInCache | None, what: Any, limits: Limits) -> Decision:
        if chat is not None:
            what = replace(what, version=chat.version, title_version=chat.title_version)
        return mark_stored(chat, what, limits)

    patch.setattr(sidecar.rule, "mark_stored", all_of_it)


def messages_come_twice(patch: Patch) -> None:
    """A message that is sent again is another one (S28)."""

    def unknown(chat: ChatInCache, what: AddMessage) -> None:
        return None

    patch.setattr(sidecar.rule.messages, "known_message", unknown)


def two_texts_under_one_revision(patch: Patch) -> None:
    """The store's older text is taken under the number that the cache reached."""
    fill = plugins.cache.memory_chats.MemoryChats.read

    async def older(self: Any, user: UserHash, ids: Sequence[ChatId], *, use: bool = False) -> Mapping[ChatId, Any]:
        found = await fill(self, user, ids, use=use)
        return {
            chat_id: chat.having(version=chat.stored_version)
            if isinstance(chat, ChatInCache) and chat.stored_version and chat.draft_state == "edited"
            else chat
            for chat_id, chat in found.items()
        }

    patch.setattr(plugins.cache.memory_chats.MemoryChats, "read", older)


MUTATIONS: Mapping[str, Callable[[Patch], None]] = MappingProxyType(
    {
        mutation.__name__: mutation
        for mutation in (
            no_base_check,
            no_operation_in_the_base,
            version_reset_on_clearing,
            titles_share_the_draft_version,
            sending_does_not_consume,
            sending_always_consumes,
            restore_overwrites,
            restore_keeps_silent,
            deletions_are_forgotten,
            outcomes_are_forgotten,
            events_are_dropped,
            the_journal_forgets_chats,
            stored_before_it_is,
            messages_come_twice,
            two_texts_under_one_revision,
        )
    }
)
