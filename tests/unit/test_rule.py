"""The rule: a table of what becomes of each change, and what holds for any sequence of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.changes import (
    Accepted,
    AddMessage,
    Change,
    ChatInCache,
    Conflict,
    Decision,
    DeleteChat,
    FillToken,
    Limits,
    MessageElsewhere,
    MessageStatus,
    NewEpoch,
    Notify,
    OverQuota,
    PutDraft,
    PutTitle,
    Remembered,
    Restore,
    RestoredDraft,
    RestoredTitle,
    Reused,
    Stored,
    Unmerged,
    Usage,
    View,
    What,
)
from sidecar.ids import DeviceId, KeyReference, chat_id_of, hash_user, message_id_of
from sidecar.records import Deleted, MessageInCache, MessageInDB, Sealed
from sidecar.rule import decide

_USER = hash_user("alice")
_CHAT = chat_id_of(_USER, "one")
_AT = datetime(2026, 5, 1, tzinfo=UTC)
_EPOCH = "0" * 20
_TOKEN = FillToken(_USER, "token")
_GONE = Deleted(_USER, _CHAT, _AT)


def _text(text: str) -> Sealed:
    return Sealed(text.encode())


def _change(what: What, op: str | None = "op", **more: Any) -> Change:
    return Change(
        **{
            "user": _USER,
            "device": DeviceId("phone"),
            "chat_id": _CHAT,
            "key": KeyReference("key"),
            "operation": op,
            "digest": b"digest",
            "at": _AT + timedelta(hours=1),
            "what": what,
            "token": _TOKEN,
            **more,
        }
    )


def _message(client_id: str) -> MessageInDB:
    return MessageInDB(
        id=message_id_of(_CHAT, client_id),
        chat_id=_CHAT,
        hashed_user_id=_USER,
        client_message_id=client_id,
        role="user",
        sender_name=None,
        content=_text(client_id),
        sequence=0,
        created_at=_AT,
    )


def _chat(**fields: Any) -> ChatInCache:
    """A draft at version 5 of operation `v5`, a title at version 2 of `t2`, one message that the store has."""
    return ChatInCache(
        **{
            "id": _CHAT,
            "user": _USER,
            "key": KeyReference("key"),
            "epoch": _EPOCH,
            "created_at": _AT,
            "updated_at": _AT,
            "draft": _text("draft"),
            "version": 5,
            "draft_op": "v5",
            "draft_state": "edited",
            "title": _text("title"),
            "title_version": 2,
            "title_op": "t2",
            "messages_version": 1,
            "last_sequence": 1,
            "messages": (MessageInCache(**_message("m1").model_dump() | {"sequence": 1, "status": "delivered"}),),
            **fields,
        }
    )


def _view(chat: ChatInCache | None = None, **more: Any) -> View:
    return View(**{"epoch": _EPOCH, "chat": chat, "token_valid": True, **more})


_DRAFT_ONLY = {
    "messages_version": 0,
    "messages": (),
    "last_sequence": 0,
    "title": None,
    "title_version": 0,
    "title_op": None,
}

# row of the design, what is here, what is asked, what comes of it
_TABLE: list[tuple[str, View, What, object]] = [
    ("S9 a first draft begins a chat", _view(), PutDraft(_text("a"), 0), (1, "op", "edited", True)),
    ("S11 the current base", _view(_chat()), PutDraft(_text("a"), 5, "v5"), (6, "op", "edited", False)),
    ("S11 the number alone", _view(_chat()), PutDraft(_text("a"), 5), (6, "op", "edited", False)),
    ("S12 a lower base", _view(_chat()), PutDraft(_text("a"), 4), "stale"),
    ("S12 an equal base of another operation", _view(_chat()), PutDraft(_text("a"), 5, "x"), "stale"),
    ("S12 a new chat that is not new", _view(_chat()), PutDraft(_text("a"), 0), "stale"),
    ("S14 its own text, which a device has brought back", _view(_chat(draft_op="op")), PutDraft(_text("draft"), 4, "v4"), (5, "op", "edited", False)),
    ("S14 its own title, likewise", _view(_chat(title_op="op")), PutTitle(_text("title"), 1, "t1"), (5, "v5", "edited", False)),
    ("S67 a base above ours", _view(_chat()), PutDraft(_text("a"), 6), "missing"),
    ("S67 a base and nothing here", _view(), PutDraft(_text("a"), 3), "missing"),
    ("S43 clearing what nobody knows", _view(), PutDraft(None, 0), "missing"),
    ("S43 a title of what nobody knows", _view(), PutTitle(_text("t"), 0), "missing"),
    ("S16 cleared, with messages", _view(_chat()), PutDraft(None, 5), (6, "op", "deleted", False)),
    ("S17 an edit of what was deleted", _view(_chat(draft=None, draft_state="deleted")), PutDraft(_text("a"), 4), "deleted"),
    ("S23 an edit of what was sent", _view(_chat(draft=None, draft_state="consumed")), PutDraft(_text("a"), 4), "consumed"),
    ("S18 an empty document is a draft", _view(_chat()), PutDraft(_text('{"type":"doc"}'), 5), (6, "op", "edited", False)),
    ("S16 a draft after a deletion", _view(_chat(draft=None, draft_state="deleted")), PutDraft(_text("a"), 5), (6, "op", "edited", False)),
    ("S44 an edit of a deleted chat", _view(tombstone=_GONE), PutDraft(_text("a"), 5), "chat_deleted"),
    ("S44 a title of a deleted chat", _view(tombstone=_GONE), PutTitle(_text("a"), 2), "chat_deleted"),
    ("S52 a message to a deleted chat", _view(tombstone=_GONE), AddMessage(_message("m2")), "chat_deleted"),
    ("S68 a restore of a deleted chat", _view(tombstone=_GONE), Restore(RestoredDraft(_text("a"), "edited", 9, "x"), None, 1), "chat_deleted"),
    ("S52 a doomed chat is deleted", _view(_chat(**_DRAFT_ONLY, doomed=True)), PutDraft(_text("a"), 5), "chat_deleted"),
    ("§6 a record of an older epoch", _view(_chat(epoch="1" * 20)), PutDraft(_text("a"), 5), Unmerged()),
    ("§7 no proof that the store was asked", _view(token_valid=False), PutDraft(_text("a"), 0), Unmerged()),
    ("§7 no proof for a message either", _view(token_valid=False), AddMessage(_message("m2")), Unmerged()),
    ("S67 restored, higher", _view(_chat()), Restore(RestoredDraft(_text("a"), "edited", 7, "v7"), None, 1), (7, "v7", "edited", False)),
    ("S67 restored, nothing here", _view(), Restore(RestoredDraft(_text("a"), "edited", 7, "v7"), None, 0), (7, "v7", "edited", True)),
    ("S69 restored, consumed", _view(_chat()), Restore(RestoredDraft(None, "consumed", 7, "v7"), None, 1), (7, "v7", "consumed", False)),
    ("S67 restored, equal", _view(_chat()), Restore(RestoredDraft(_text("draft"), "edited", 5, "v5"), None, 1), (5, "v5", "edited", False)),
    ("S67 restored, equal number of another text", _view(_chat()), Restore(RestoredDraft(_text("a"), "edited", 5, "x"), None, 1), "stale"),
    ("S67 restored, lower", _view(_chat()), Restore(RestoredDraft(_text("a"), "edited", 4, "v4"), None, 1), "stale"),
    ("S69 restored, lower than what was sent", _view(_chat(draft=None, draft_state="consumed")),
     Restore(RestoredDraft(_text("a"), "edited", 4, "v4"), None, 1), "consumed"),
    ("§2 nothing to restore", _view(), Restore(None, None, 0), "missing"),
    ("S23 sent from the current draft", _view(_chat()), AddMessage(_message("m2"), 5, "v5"), (6, "op", "consumed", False)),
    ("S70 sent from an older draft", _view(_chat()), AddMessage(_message("m2"), 4, "v4"), (5, "v5", "edited", False)),
    ("S70 sent from another text of that number", _view(_chat()), AddMessage(_message("m2"), 5, "x"), (5, "v5", "edited", False)),
    ("S69 sent from a draft that was lost", _view(_chat()), AddMessage(_message("m2"), 8, "v8"), (9, "op", "consumed", False)),
    ("§4 sent without a draft", _view(_chat()), AddMessage(_message("m2")), (5, "v5", "edited", False)),
    ("S26 a message begins a chat", _view(), AddMessage(_message("m2")), (0, None, "none", True)),
    ("T52 too many drafts", _view(usage=Usage(draft_chats=2)), PutDraft(_text("a"), 0), OverQuota("draft_chats", 2)),
    ("T52 too many bytes", _view(_chat(), usage=Usage(bytes=1500)), PutDraft(_text("x" * 2000), 5), OverQuota("bytes", 3000)),
    ("T52 a message is no draft chat", _view(usage=Usage(draft_chats=2)), AddMessage(_message("m2")), (0, None, "none", True)),
    ("T52 clearing always goes", _view(_chat(), usage=Usage(bytes=9000)), PutDraft(None, 5), (6, "op", "deleted", False)),
]  # fmt: skip


@pytest.mark.parametrize(("view", "what", "expected"), [row[1:] for row in _TABLE], ids=[row[0] for row in _TABLE])
def test_table(view: View, what: What, expected: object) -> None:
    """An acceptance: version, operation and state of the draft, and whether the chat is new. A conflict: its reason."""
    decision = decide(view, _change(what), Limits(draft_chats=2, bytes=3000))
    outcome = decision.outcome
    if isinstance(expected, tuple):
        assert isinstance(outcome, Accepted)
        assert outcome.chat is not None
        assert (outcome.version, outcome.op, outcome.chat.draft_state, outcome.created) == expected
        assert decision.remember is not None
        assert (decision.remember.version, decision.remember.op, decision.remember.accepted) == (*expected[:2], True)
        return
    assert _unchanged(decision)
    if isinstance(expected, str):
        assert isinstance(outcome, Conflict)
        assert outcome.reason == expected
        assert (decision.remember is None) == (expected == "missing")
        if expected in ("stale", "consumed", "deleted"):
            assert outcome.chat is view.chat
        if expected == "chat_deleted":
            assert isinstance(outcome.chat, Deleted)
    else:
        assert outcome == expected
        assert decision.remember is None


def _unchanged(decision: Decision) -> bool:
    return (
        decision.chat is None
        and decision.tombstone is None
        and decision.items == ()
        and decision.entries == ()
        and not decision.due
        and not decision.new_epoch
    )


def _remembered(what: What, view: View) -> Remembered:
    remember = decide(view, _change(what), Limits()).remember
    assert remember is not None
    return remember


def test_s14_s71_again() -> None:
    """S14, S71, F6: the first outcome and no change; another frame is refused, before anything else is looked at."""
    view = _view(_chat())
    first = decide(view, _change(PutDraft(_text("a"), 5)), Limits())
    assert isinstance(first.outcome, Accepted)
    after = replace(view, chat=first.chat, remembered=first.remember)
    again = decide(after, _change(PutDraft(_text("a"), 5)), Limits())
    assert _unchanged(again)
    assert again.outcome == replace(first.outcome, repeat=True)
    later = decide(replace(after, remembered=None), _change(PutDraft(_text("b"), 6), "op2"), Limits())
    again = decide(replace(after, chat=later.chat), _change(PutDraft(_text("a"), 5)), Limits())
    assert isinstance(again.outcome, Accepted)
    assert (again.outcome.version, again.outcome.op, again.outcome.repeat) == (6, "op", True)
    for other in (after, replace(after, chat=None, tombstone=_GONE), replace(after, chat=None, token_valid=False)):
        refused = decide(other, _change(PutDraft(_text("a"), 5), digest=b"other"), Limits())
        assert _unchanged(refused)
        assert refused.outcome == Reused()


def test_s10_s67_a_repeat_whose_revision_was_lost_is_carried_out_anew() -> None:
    """§1: an acceptance that the server no longer holds is forgotten; of a chat deleted since, the answer is that."""
    remembered = _remembered(PutDraft(_text("a"), 5), _view(_chat()))
    change = _change(PutDraft(_text("a"), 5))
    lost = decide(_view(_chat(), remembered=remembered), change, Limits())
    assert isinstance(lost.outcome, Accepted)
    assert (lost.outcome.version, lost.outcome.repeat) == (6, False)
    gone = decide(_view(remembered=remembered), change, Limits())
    assert gone.outcome == Conflict("missing")
    assert gone.forget
    deleted = decide(_view(tombstone=_GONE, remembered=remembered), change, Limits())
    assert deleted.outcome == Conflict("chat_deleted", _GONE, repeat=True)
    assert decide(_view(remembered=remembered, token_valid=False), change, Limits()).outcome == Unmerged()


@pytest.mark.parametrize("what", ["restore", "message"])
def test_s67_what_gave_way_is_given_back_by_a_repeat_that_is_carried_out_anew(what: str) -> None:
    """§1, §2: the answer was lost, the chat's life ended, the same operation comes again: its outcome alone has that text."""
    asked: What = Restore(RestoredDraft(_text("a"), "edited", 7, "v7"), RestoredTitle(_text("t"), 4, "t4"), 0)
    if what == "message":
        asked = AddMessage(_message("m1"), 7, "v7")
    here = _chat(**{**_DRAFT_ONLY, "title": _text("title"), "title_version": 2, "title_op": "t2"})
    first = decide(_view(here), _change(asked), Limits())
    again = decide(_view(remembered=first.remember), _change(asked), Limits())
    for decision in (first, again):
        assert isinstance(decision.outcome, Accepted)
        replaced = decision.outcome.replaced
        assert replaced is not None
        assert (replaced.draft, replaced.draft_version, replaced.draft_op) == (_text("draft"), 5, "v5")
        title = (_text("title"), 2, "t2") if what == "restore" else (None, 0, None)
        assert (replaced.title, replaced.title_version, replaced.title_op) == title
        assert decision.remember is not None
        assert decision.remember.replaced == replaced
    assert isinstance(again.outcome, Accepted)
    assert (again.outcome.created, again.outcome.repeat) == (True, False)


def test_s14_s67_an_operation_whose_text_a_device_has_brought_back_was_accepted() -> None:
    """§1: its outcome was lost with the cache, its text was restored: nothing changes, and it is accepted for good."""
    for what, here in (
        (PutDraft(_text("draft"), 4, "v4"), _chat(draft_op="op")),
        (PutDraft(None, 4, "v4"), _chat(draft=None, draft_op="op", draft_state="deleted")),
        (PutTitle(_text("title"), 1, "t1"), _chat(title_op="op")),
    ):
        first = decide(_view(here), _change(what), Limits())
        assert _unchanged(first)
        assert isinstance(first.outcome, Accepted)
        assert first.outcome.repeat
        newer = _chat(version=6, draft_op="v6", title_version=3, title_op="t3")
        again = decide(_view(newer, remembered=first.remember), _change(what), Limits())
        assert isinstance(again.outcome, Accepted)
        assert (again.outcome.version, again.outcome.title_version) == (5, 2)


def test_s12_a_conflict_again_shows_the_winner_of_now() -> None:
    """§1: text and revision of the winner are read anew, together."""
    what = PutDraft(_text("a"), 4)
    remembered = _remembered(what, _view(_chat()))
    now = _chat(version=9, draft_op="v9", draft=None, draft_state="consumed")
    again = decide(_view(now, remembered=remembered), _change(what), Limits())
    assert again.outcome == Conflict("consumed", now, repeat=True)
    assert _unchanged(again)


def test_s28_the_same_message_again() -> None:
    """S28: one row, one event, whatever operation brings it; the draft it was made from is consumed if it still stands."""
    view = _view(_chat())
    sent = decide(view, _change(AddMessage(_message("m2"), 5, "v5")), Limits())
    assert sent.chat is not None
    assert [(each.client_message_id, each.sequence, each.status) for each in sent.chat.messages] == [
        ("m1", 1, "delivered"),
        ("m2", 2, "sent"),
    ]
    assert (sent.chat.messages_version, sent.chat.undelivered) == (2, 1)
    assert [item.kind for item in sent.items] == ["draft", "message"]
    assert [entry.kind for entry in sent.entries] == ["message"]
    again = decide(replace(view, chat=sent.chat), _change(AddMessage(_message("m2"), 5, "v5"), "op2"), Limits())
    assert _unchanged(again)
    assert isinstance(again.outcome, Accepted)
    assert (again.outcome.repeat, again.outcome.consumed, again.outcome.messages_version) == (True, True, 2)
    first = decide(_view(_chat(**_DRAFT_ONLY)), _change(AddMessage(_message("m2"))), Limits())
    assert [entry.kind for entry in first.entries] == ["first_message"]


def test_s67_what_a_restore_puts_away_is_given_back() -> None:
    """S67: the text that was here returns with its revision, draft and title apart; what was not restored stays."""
    what = Restore(RestoredDraft(_text("a"), "edited", 8, "v8"), RestoredTitle(_text("b"), 3, "t3"), 4)
    decision = decide(_view(_chat()), _change(what), Limits())
    assert isinstance(decision.outcome, Accepted)
    replaced = decision.outcome.replaced
    assert replaced is not None
    assert (replaced.draft, replaced.draft_version, replaced.draft_op) == (b"draft", 5, "v5")
    assert (replaced.title, replaced.title_version, replaced.title_op) == (b"title", 2, "t2")
    assert decision.outcome.messages_version == 4
    half = decide(_view(_chat()), _change(replace(what, draft=RestoredDraft(_text("x"), "edited", 5, "x"))), Limits())
    assert isinstance(half.outcome, Accepted)
    assert (half.outcome.draft_lost, half.outcome.version, half.outcome.title_version) == ("stale", 5, 3)
    sent = decide(_view(_chat()), _change(AddMessage(_message("m2"), 8, "v8")), Limits())
    assert isinstance(sent.outcome, Accepted)
    assert sent.outcome.replaced is not None
    assert sent.outcome.replaced.draft == b"draft"


def test_s25_titles() -> None:
    """S25: a title has its own revision and takes no notice of the draft's."""
    accepted = decide(_view(_chat()), _change(PutTitle(_text("t"), 2, "t2")), Limits())
    assert accepted.chat is not None
    assert (accepted.chat.title_version, accepted.chat.version, accepted.due) == (3, 5, True)
    for what in (PutTitle(_text("t"), 1), PutTitle(_text("t"), 2, "x")):
        assert decide(_view(_chat()), _change(what), Limits()).outcome == Conflict("stale", _chat())
    assert decide(_view(_chat()), _change(PutTitle(None, 3)), Limits()).outcome == Conflict("missing", _chat())


def test_s16_clearing_the_draft_of_a_chat_without_messages_dooms_it() -> None:
    """§3: the chat waits for its key's destruction; a client that knows of a message keeps it."""
    view = _view(_chat(**_DRAFT_ONLY))
    doomed = decide(view, _change(PutDraft(None, 5)), Limits())
    assert isinstance(doomed.outcome, Accepted)
    assert doomed.outcome.doomed
    assert (doomed.items, doomed.due) == ((), False)
    kept = decide(view, _change(PutDraft(None, 5, has_messages=True)), Limits())
    assert isinstance(kept.outcome, Accepted)
    assert not kept.outcome.doomed


def test_the_sidecars_own_changes() -> None:
    """Tombstone, store marks, statuses, epochs and notices need no token; each is said once."""
    first = decide(_view(_chat()), _change(DeleteChat(), None), Limits())
    assert first.tombstone == replace(_GONE, at=_AT + timedelta(hours=1))
    assert [entry.kind for entry in first.entries] == ["deleted"]
    again = decide(_view(tombstone=_GONE), _change(DeleteChat(), None), Limits())
    assert _unchanged(again)
    assert isinstance(again.outcome, Accepted)
    assert again.outcome.deleted == _GONE
    sent = decide(_view(_chat()), _change(AddMessage(_message("m2"))), Limits()).chat
    assert sent is not None
    m2 = message_id_of(_CHAT, "m2")
    stored = decide(_view(sent), _change(Stored(99, 1, m2), None), Limits())
    assert stored.chat is not None
    assert (stored.chat.stored_version, stored.chat.stored_title_version, stored.chat.undelivered) == (5, 1, 0)
    assert [item.kind for item in stored.items] == ["message_update", "stored"]
    assert _unchanged(decide(_view(stored.chat), _change(Stored(3, 0, m2), None), Limits()))
    error = decide(_view(sent), _change(MessageStatus(m2, "error"), None), Limits())
    assert error.chat is not None
    assert (error.chat.undelivered, error.chat.messages_version) == (1, 3)
    assert decide(_view(), _change(MessageStatus(m2, "error"), None), Limits()).outcome == Conflict("missing")
    assert decide(_view(), _change(NewEpoch(_EPOCH), None), Limits()).new_epoch
    assert not decide(_view(), _change(NewEpoch("1" * 20), None), Limits()).new_epoch
    assert [entry.kind for entry in decide(_view(), _change(Notify("erased"), None), Limits()).entries] == ["erased"]


# -- any sequence ------------------------------------------------------------------------------------------------------


@dataclass
class _World:
    """One chat as a cache would keep it, and what was ever seen of it."""

    chat: ChatInCache | None = None
    tombstone: Deleted | None = None

    def __post_init__(self) -> None:
        self.outcomes: dict[str, Remembered] = {}
        self.drafts: dict[int, tuple[str | None, bytes | None]] = {}
        self.titles: dict[int, tuple[str | None, bytes | None]] = {}
        self.sequences: dict[int, str] = {}

    def commit(self, change: Change) -> Decision:
        op = change.operation or ""
        view = View(_EPOCH, self.chat, self.tombstone, self.outcomes.get(op), Usage(), self.chat is None)
        decision = decide(view, change, Limits(messages_kept=4))
        if decision.remember is not None:
            self.outcomes[op] = decision.remember
        elif decision.forget:
            del self.outcomes[op]
        if decision.chat is not None:
            self.chat = decision.chat
        if decision.tombstone is not None:
            self.chat, self.tombstone = None, decision.tombstone
        return decision


_BASES = st.integers(-2, 2)
_KINDS: list[Callable[..., What]] = [
    lambda world, base, text: PutDraft(text, max(0, _version(world) + base)),
    lambda world, base, text: PutDraft(text, _version(world), world.chat.draft_op if world.chat else None),
    lambda world, base, text: PutDraft(None, _version(world), has_messages=base > 0),
    lambda world, base, text: PutTitle(text, max(0, (world.chat.title_version if world.chat else 0) + base)),
    lambda world, base, text: AddMessage(_message(text.decode()), max(0, _version(world) + base)),
    lambda world, base, text: AddMessage(_message(text.decode())),
    lambda world, base, text: Restore(
        RestoredDraft(text, "edited", max(1, _version(world) + base), f"restored-{text.decode()}"),
        RestoredTitle(text, max(1, base + 3), f"restored-{text.decode()}"),
        max(0, base),
    ),
    lambda world, base, text: Stored(max(0, _version(world) + base), 9, message_id_of(_CHAT, text.decode())),
    lambda world, base, text: MessageStatus(message_id_of(_CHAT, text.decode()), "error"),
    lambda world, base, text: MessageElsewhere(message_id_of(_CHAT, text.decode()), base > 0),
    lambda world, base, text: DeleteChat() if base == 2 and text == b"a" else Notify("device_added"),
]


def _version(world: _World) -> int:
    return world.chat.version if world.chat is not None else 0


@given(
    st.lists(
        st.tuples(st.integers(0, len(_KINDS) - 1), _BASES, st.sampled_from([b"a", b"b", b"c", b"d"]), st.booleans()),
        min_size=5,
        max_size=40,
    )
)
def test_any_sequence(steps: list[tuple[int, int, bytes, bool]]) -> None:
    """§2, L1, L2, L24–L27: no number falls, no number has two texts, a refusal and a repeat change nothing, deleted stays so."""
    world = _World()
    for number, (kind, base, text, again) in enumerate(steps):
        what = _KINDS[kind](world, base, text)
        own = isinstance(what, Stored | MessageStatus | MessageElsewhere | DeleteChat | Notify)
        change = _change(what, None if own else f"op{number}")
        before = world.chat
        decision = world.commit(change)
        _holds(world, before, decision)
        if again and not own and not isinstance(decision.outcome, Conflict):
            settled = world.chat
            repeated = world.commit(change)
            assert _unchanged(repeated)
            assert world.chat is settled
            assert isinstance(repeated.outcome, Accepted)
            assert isinstance(decision.outcome, Accepted)
            assert repeated.outcome.repeat
            assert (repeated.outcome.version, repeated.outcome.op) == (decision.outcome.version, decision.outcome.op)


def _holds(world: _World, before: ChatInCache | None, decision: Decision) -> None:
    outcome, after = decision.outcome, world.chat
    if not isinstance(outcome, Accepted):
        assert _unchanged(decision)
        assert after is before
    if world.tombstone is not None:
        assert after is None
        return
    if after is None:
        return
    if before is not None:
        assert after.version >= before.version
        assert after.title_version >= before.title_version
        assert after.messages_version >= before.messages_version
        assert after.stored_version >= before.stored_version
        undelivered = {message.id for message in before.messages if message.status != "delivered"}
        assert undelivered <= {message.id for message in after.messages}
        if after is not before:
            assert decision.items != () or after.doomed or after.in_store > before.in_store
    assert world.drafts.setdefault(after.version, (after.draft_op, after.draft)) == (after.draft_op, after.draft)
    assert world.titles.setdefault(after.title_version, (after.title_op, after.title)) == (after.title_op, after.title)
    assert after.stored_version <= after.version
    assert after.undelivered == sum(message.status in ("sent", "error") for message in after.messages)
    assert after.message_bytes == sum(256 + len(message.content) for message in after.messages)
    for message in after.messages:
        assert world.sequences.setdefault(message.sequence, message.id) == message.id


def test_f33_a_message_changed_elsewhere_takes_the_next_number() -> None:
    """Deleted it goes from here, edited it is told anew; one that is on its way to the store was not meant."""
    world = _World()
    for name in ("a", "b", "c"):
        world.commit(_change(AddMessage(_message(name)), f"op-{name}"))
    assert world.chat is not None
    ids = [message.id for message in world.chat.messages]
    early = world.commit(_change(MessageElsewhere(ids[0], deleted=True), None))
    assert isinstance(early.outcome, Accepted)
    assert early.outcome.repeat
    assert _unchanged(early)
    for message_id in ids:
        world.commit(_change(Stored(0, 0, message_id), None))
    before = world.chat
    gone = world.commit(_change(MessageElsewhere(ids[1], deleted=True), None))
    assert world.chat is not None
    assert [message.id for message in world.chat.messages] == [ids[0], ids[2]]
    assert world.chat.messages_version == before.messages_version + 1
    assert world.chat.message_bytes < before.message_bytes
    assert [(item.kind, item.ref) for item in gone.items] == [("message_deleted", ids[1])]
    assert [entry.kind for entry in gone.entries] == ["title"], "the store is told of the number"
    edited = world.commit(_change(MessageElsewhere(ids[0], deleted=False), None))
    assert [(item.kind, item.ref) for item in edited.items] == [("message", ids[0])]
    assert [message.id for message in world.chat.messages] == [ids[0], ids[2]]
    older = world.commit(_change(MessageElsewhere(ids[1], deleted=True), None))
    assert older.items, "one that is not here is told of all the same"
    assert decide(_view(), _change(MessageElsewhere(ids[0], True), None), Limits()).outcome == Conflict("missing")
