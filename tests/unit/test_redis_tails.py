"""What a process knows of its people's logs without asking: gaps, doubles, late ones, epochs, records (semantics §6)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from plugins.cache.redis_changes import Step
from plugins.cache.redis_records import pack
from plugins.cache.redis_tails import Tails
from sidecar import (
    ChatId,
    ChatInCache,
    Cursor,
    Deleted,
    KeyReference,
    MessageId,
    MessageInCache,
    Sealed,
    UserHash,
)

ALICE = UserHash("a" * 64)
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
EPOCH, LATER = "01", "02"


def at(offset: int, epoch: str = EPOCH) -> Cursor:
    return Cursor(epoch, offset, f"tag-{offset}")


def chat(name: str = "c1", **fields: object) -> ChatInCache:
    record = ChatInCache(ChatId(name), ALICE, KeyReference("k"), EPOCH, NOON, NOON)
    return record.having(**fields)


def message(name: str, status: str = "sent", of: str = "c1") -> MessageInCache:
    return MessageInCache.model_construct(
        id=MessageId(name), chat_id=ChatId(of), hashed_user_id=ALICE, content=Sealed(name.encode()), status=status
    )


def step(
    offset: int,
    record: ChatInCache | Deleted | None = None,
    *,
    epoch: str = EPOCH,
    count: int = 1,
    of: str = "c1",
    ref: str | None = None,
) -> Step:
    """The step that ends at this offset, with so many entries, all of one chat."""
    items = [
        pack([f"tag-{number}", "message" if ref else "draft", of, number, ref or False, "tab", False, 0])
        for number in range(offset - count + 1, offset + 1)
    ]
    return Step(at(offset - count, epoch), at(offset, epoch), items, record, None)


def saw(tails: Tails, head: Cursor) -> bool:
    """Redis is asked where the log ends, and answers before anything else comes."""
    return tails.saw(ALICE, head, tails.head(ALICE))


@pytest.fixture
def tails() -> Tails:
    """Alice is followed, and her log is known to end at 10."""
    tails = Tails()
    tails.follow(ALICE)
    saw(tails, at(10))
    return tails


def told(tails: Tails, after: Cursor, limit: int = 100) -> list[int] | None:
    """The offsets that are told behind this place; None: the log has to be asked."""
    fresh = tails.behind(ALICE, after, limit)
    return [item.offset for item in fresh.items] if fresh is not None else None


def test_steps_that_follow_each_other_are_told_once(tails: Tails) -> None:
    assert not tails.grown(ALICE, at(10))
    tails.add(ALICE, step(11))
    tails.add(ALICE, step(13, count=2))
    assert tails.grown(ALICE, at(10))
    assert told(tails, at(10)) == [11, 12, 13]
    assert not tails.grown(ALICE, at(13))
    assert told(tails, at(10)) is None, "whoever asks for them again asks the log"


def test_they_are_told_in_parts(tails: Tails) -> None:
    for offset in range(11, 16):
        tails.add(ALICE, step(offset))
    assert told(tails, at(10), 2) == [11, 12]
    assert told(tails, at(12), 2) == [13, 14]
    tails.add(ALICE, step(16))
    assert told(tails, at(14), 2) == [15, 16]
    assert told(tails, at(16)) is None


def test_a_place_with_another_tag_or_outside_of_the_tail_is_a_question_for_the_log(tails: Tails) -> None:
    for offset in (11, 12, 13):
        tails.add(ALICE, step(offset))
    for place in (Cursor(EPOCH, 11, "another"), Cursor(EPOCH, 10, "another"), at(9), at(11, LATER)):
        assert told(tails, place) is None
    assert told(tails, at(11)) == [12, 13]


def test_a_gap_is_filled_from_the_log_and_after_it_all_is_told_again(tails: Tails) -> None:
    tails.add(ALICE, step(12))  # 11 was lost
    assert tails.grown(ALICE, at(10))
    assert told(tails, at(10)) is None
    saw(tails, at(12))  # the log was asked, and told both
    assert not tails.grown(ALICE, at(12))
    tails.add(ALICE, step(13))
    assert told(tails, at(12)) == [13]


def test_what_was_here_before_a_gap_is_told_and_the_rest_asked_for(tails: Tails) -> None:
    tails.add(ALICE, step(11))
    tails.add(ALICE, step(13))  # 12 was lost
    assert told(tails, at(10)) == [11]
    assert tails.grown(ALICE, at(11)), "there is more than was told"
    assert told(tails, at(11)) is None
    saw(tails, at(13))
    tails.add(ALICE, step(14))
    assert told(tails, at(13)) == [14]


def test_a_step_that_comes_twice_is_told_once(tails: Tails) -> None:
    tails.add(ALICE, step(11))
    tails.add(ALICE, step(11))
    tails.add(ALICE, step(12))
    tails.add(ALICE, step(11))
    assert told(tails, at(10)) == [11, 12]
    tails.add(ALICE, step(12))
    assert not tails.grown(ALICE, at(12))
    tails.add(ALICE, step(13))
    assert told(tails, at(12)) == [13]


def test_one_that_comes_late_costs_nothing_for_those_behind_it(tails: Tails) -> None:
    """Its entries were told by the log: what follows must not take it for the beginning of something."""
    saw(tails, at(13))
    tails.add(ALICE, step(12))
    assert not tails.grown(ALICE, at(13))
    tails.add(ALICE, step(14))
    assert told(tails, at(13)) == [14]
    tails.add(ALICE, step(13))
    assert told(tails, at(14)) is None
    tails.add(ALICE, step(15))
    assert told(tails, at(14)) == [15]


def test_a_new_epoch_is_told_by_the_log(tails: Tails) -> None:
    tails.add(ALICE, step(11))
    tails.add(ALICE, step(1, epoch=LATER))
    assert tails.grown(ALICE, at(10))
    assert told(tails, at(10)) is None
    saw(tails, at(1, LATER))
    tails.add(ALICE, step(2, epoch=LATER))
    assert told(tails, at(1, LATER)) == [2]


def test_a_late_word_of_an_older_epoch_is_a_question_and_no_more(tails: Tails) -> None:
    saw(tails, at(1, LATER))
    tails.add(ALICE, step(11))
    assert told(tails, at(1, LATER)) is None
    saw(tails, at(1, LATER))
    assert not tails.grown(ALICE, at(1, LATER))
    tails.add(ALICE, step(2, epoch=LATER))
    assert told(tails, at(1, LATER)) == [2]


def test_too_many_at_once_are_left_to_the_log(tails: Tails) -> None:
    for offset in range(11, 400):
        tails.add(ALICE, step(offset))
    assert tails.grown(ALICE, at(10))
    assert told(tails, at(10)) is None


def test_nobody_is_kept_who_is_not_followed(tails: Tails) -> None:
    tails.add(ALICE, step(11))
    assert not tails.follow(ALICE)
    assert not tails.unfollow(ALICE)
    assert tails.follows(ALICE)
    assert tails.unfollow(ALICE)
    assert (tails.followed, tails.follows(ALICE), told(tails, at(10))) == ([], False, None)
    tails.add(ALICE, step(12))
    assert not saw(tails, at(12))
    tails.follow(ALICE)
    assert told(tails, at(11)) is None


def test_what_is_seen_again_is_no_news(tails: Tails) -> None:
    assert not saw(tails, at(10))
    assert saw(tails, at(11))
    assert saw(tails, Cursor("", 0, "")), "the cache has lost her"
    assert tails.grown(ALICE, at(11))


@pytest.mark.parametrize("answer", [10, 11])
def test_an_answer_does_not_take_back_what_came_while_it_was_under_way(tails: Tails, answer: int) -> None:
    """Else whoever stands where it says would wait for the next look, though the steps are here."""
    before = tails.head(ALICE)
    tails.add(ALICE, step(11))
    tails.add(ALICE, step(12))
    assert not tails.saw(ALICE, at(answer), before)
    assert tails.grown(ALICE, at(answer))
    assert told(tails, at(10)) == [11, 12]
    assert not tails.grown(ALICE, at(12))


def test_an_answer_that_knows_more_than_what_came_meanwhile_is_news(tails: Tails) -> None:
    before = tails.head(ALICE)
    tails.add(ALICE, step(11))
    assert tails.saw(ALICE, at(12), before)
    assert told(tails, at(10)) == [11]
    assert tails.grown(ALICE, at(11))
    assert not tails.grown(ALICE, at(12))


def test_a_cache_that_went_back_is_believed(tails: Tails) -> None:
    """It is shorter than it was when it was asked: nothing that came meanwhile can be why."""
    assert saw(tails, at(8))
    assert tails.grown(ALICE, at(10))
    tails.add(ALICE, step(9))
    assert tails.head(ALICE) == at(9)


@pytest.mark.parametrize("answer", [at(1, LATER), Cursor(EPOCH, 11, "another"), Cursor("", 0, "")])
def test_of_two_pasts_only_the_log_can_tell_which_one_counts(tails: Tails, answer: Cursor) -> None:
    """An answer of another past than a step that came meanwhile: wherever one stands, the log is asked."""
    before = tails.head(ALICE)
    tails.add(ALICE, step(11))
    assert tails.saw(ALICE, answer, before)
    assert tails.grown(ALICE, at(11))
    assert tails.grown(ALICE, answer)


# -- the records that the entries tell of ------------------------------------------------------------------------------


def records(tails: Tails, after: Cursor) -> dict[ChatId, ChatInCache | Deleted]:
    fresh = tails.behind(ALICE, after, 100)
    assert fresh is not None
    return dict(fresh.records)


def names(record: ChatInCache | Deleted) -> list[tuple[str, str]]:
    assert isinstance(record, ChatInCache)
    return [(each.id, each.status) for each in record.messages]


def test_the_newest_record_is_told_with_every_message_that_the_entries_name(tails: Tails) -> None:
    tails.add(ALICE, step(11, chat(messages=(message("m1"),)), ref="m1"))
    tails.add(ALICE, step(12, chat(messages=(message("m2"),), messages_version=2), ref="m2"))
    tails.add(ALICE, step(13, chat(version=1)))
    tails.add(ALICE, step(14, chat("other"), of="other"))
    tails.add(ALICE, step(15, chat(version=1, messages=(message("m1", "delivered"),)), ref="m1"))
    found = records(tails, at(10))
    assert set(found) == {"c1", "other"}
    assert names(found[ChatId("c1")]) == [("m1", "delivered"), ("m2", "sent")]


def test_a_record_that_did_not_come_along_is_read_whatever_came_before_or_behind_it(tails: Tails) -> None:
    """A large text is not carried: the record of a later step lacks the message that its own entry does not name."""
    tails.add(ALICE, step(11, chat(messages=(message("m1"),)), ref="m1"))
    tails.add(ALICE, step(12, None, ref="large"))
    assert records(tails, at(10)) == {}
    tails.add(ALICE, step(13, chat(messages=(message("m1"),)), ref="m1"))
    tails.add(ALICE, step(14, None, ref="large"))
    tails.add(ALICE, step(15, chat(title_version=1)))
    assert records(tails, at(12)) == {}
    tails.add(ALICE, step(16, chat(title_version=2)))
    assert set(records(tails, at(15))) == {"c1"}


def test_a_deleted_chat_is_told_as_such(tails: Tails) -> None:
    tails.add(ALICE, step(11, chat(messages=(message("m1"),)), ref="m1"))
    gone = Deleted(ALICE, ChatId("c1"), NOON)
    tails.add(ALICE, step(12, gone))
    assert records(tails, at(10)) == {ChatId("c1"): gone}
