"""Messages that run ahead of their chat's row: which may, what is remembered of them, and when the row follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plugins.persistence.directus_ahead import Ahead
from plugins.persistence.directus_merge import Unit, Write, units_of
from plugins.persistence.directus_rows import chat_row
from sidecar import ChatId, ChatInDB, KeyReference, MessageId, MessageInDB, Sealed, UserHash

USER = UserHash("ab" * 32)
CHAT = ChatId(f"{USER[:8]}_one")
BEGAN = datetime(2026, 11, 26, 12, tzinfo=UTC)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def chat(number: int = 1, **changes: Any) -> ChatInDB:
    """As it stands once it has so many messages."""
    fields: dict[str, Any] = {
        "id": CHAT,
        "hashed_user_id": USER,
        "vault_key_reference": KeyReference("key-1"),
        "title": None,
        "title_version": 0,
        "title_op": None,
        "draft": None,
        "version": 0,
        "draft_op": None,
        "draft_state": "none",
        "messages_version": 2 * number,
        "created_at": BEGAN,
        "updated_at": BEGAN + timedelta(seconds=number),
        "last_message_timestamp": BEGAN + timedelta(seconds=number),
    }
    return ChatInDB(**{**fields, **changes})


def write(number: int = 1, *, message: bool = True, **changes: Any) -> Write:
    record = chat(number, **changes)
    if not message:
        return Write.of(record, None)
    sent = MessageInDB(
        id=MessageId(f"m-{number}"),
        chat_id=CHAT,
        hashed_user_id=USER,
        client_message_id=f"m-{number}",
        role="user",
        sender_name=None,
        content=Sealed(b"sealed"),
        sequence=number,
        created_at=BEGAN + timedelta(seconds=number),
    )
    return Write.of(record, sent)


def unit(*writes: Write, row: dict[str, Any] | None = None) -> Unit:
    """What is written of the chat when its row says this."""
    [found] = units_of(list(enumerate(writes)), {} if row is None else {writes[0].key: row}, set(), {})
    return found


ROW = chat_row(chat(0))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ahead(clock: Clock) -> Ahead:
    return Ahead(clock)


def in_flow(ahead: Ahead) -> Unit:
    """A chat whose last message came with its row; the next one."""
    ahead.level(unit(write(1), row=ROW))
    return unit(write(2), row=chat_row(chat(1)))


def test_a_message_that_follows_another_may_run_ahead(ahead: Ahead, clock: Clock) -> None:
    assert not ahead.may_run(unit(write(1), row=ROW)), "the first one brings the row along"
    second = in_flow(ahead)
    assert ahead.may_run(second)
    clock.now += 61
    assert not ahead.may_run(second), "they do not follow each other any more"


def test_a_draft_a_title_a_new_chat_and_a_row_alone_never_run_ahead(ahead: Ahead) -> None:
    in_flow(ahead)
    before = chat_row(chat(1))
    consumed: dict[str, Any] = {"version": 3, "draft_op": "o", "draft_state": "consumed"}
    for each in (
        unit(write(2, **consumed), row=before),
        unit(write(2, title=b"sealed", title_version=1, title_op="o"), row=before),
        unit(write(2)),
        unit(write(2, message=False), row=before),
        unit(write(2), row={**before, "created_at": None}),
    ):
        assert not ahead.may_run(each)


def test_while_it_is_ahead_its_row_need_not_be_read(ahead: Ahead) -> None:
    second = in_flow(ahead)
    assert ahead.state(second.key) is None
    ahead.ran(second, chat_row(chat(1)))
    state = ahead.state(second.key)
    assert state is not None
    assert state["messages_version"] == 4
    assert ahead.continued([write(3), write(4)]) == state
    assert ahead.continued([write(3), write(4, message=False)]) is None
    assert ahead.continued([write(3, version=1, draft_op="o", draft_state="consumed")]) is None
    assert ahead.continued([write(3, vault_key_reference=KeyReference("key-2"))]) is None
    third = unit(write(3), row=dict(state))
    assert ahead.may_run(third)
    ahead.ran(third, state)
    assert (ahead.state(second.key) or {})["messages_version"] == 6


def test_messages_carry_the_number_that_the_row_would_get() -> None:
    both = unit(write(2), write(3), row=chat_row(chat(1)))
    assert [(row["sequence"], row["messages_version"]) for row in both.plain_rows()] == [(2, 4), (3, 6)]
    assert {row["chat_id"] for row in both.plain_rows()} == {both.key}


def test_the_row_follows_when_the_chat_is_quiet_or_after_a_while(ahead: Ahead, clock: Clock) -> None:
    second = in_flow(ahead)
    ahead.ran(second, chat_row(chat(1)))
    clock.now += 29
    assert ahead.due() == []
    clock.now += 1
    [due] = ahead.due()
    assert (due.behind, due.message, due.message_row, due.row["messages_version"]) == (True, None, None, 4)
    assert ahead.latest(second.key) == due
    number = 3
    for _ in range(4):
        ahead.ran(unit(write(number), row=chat_row(chat(number - 1))), chat_row(chat(number - 1)))
        clock.now += 29
        number += 1
    assert [each.row["messages_version"] for each in ahead.due()] == [2 * (number - 1)], "since two minutes"


def test_what_was_written_is_due_no_more_and_what_could_not_be_is_put_off(ahead: Ahead, clock: Clock) -> None:
    second = in_flow(ahead)
    ahead.ran(second, chat_row(chat(1)))
    assert [each.key for each in ahead.due(everything=True)] == [second.key]
    clock.now += 30
    ahead.put_off(second.key)
    assert ahead.due() == []
    clock.now += 30
    assert len(ahead.due()) == 1
    ahead.level(replace_messages(second))
    assert (len(ahead), ahead.due(everything=True), ahead.latest(second.key)) == (0, [], None)


def replace_messages(written: Unit) -> Unit:
    return replace(written, messages={})


def test_of_a_person_who_is_erased_nothing_is_remembered(ahead: Ahead) -> None:
    second = in_flow(ahead)
    ahead.ran(second, chat_row(chat(1)))
    ahead.forget((), UserHash("cd" * 32))
    assert len(ahead) == 1
    ahead.forget((), USER)
    assert len(ahead) == 0
    assert not ahead.may_run(second)
