"""What Directus has just said is not there is believed once, and for a few seconds."""

from __future__ import annotations

from plugins.persistence.directus_absent import Absent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_is_believed_once_and_not_for_long() -> None:
    clock = Clock()
    absent = Absent(clock)
    assert not absent.take("a")
    absent.note(["a", "b"], absent.now())
    assert absent.take("a")
    assert not absent.take("a"), "it was written since"
    clock.now += 3.1
    assert not absent.take("b")


def test_it_is_as_old_as_the_question() -> None:
    clock = Clock()
    absent = Absent(clock)
    asked = absent.now()
    clock.now += 5
    absent.note(["a"], asked)
    assert not absent.take("a")


def test_no_more_than_so_many_are_kept() -> None:
    absent = Absent()
    absent.note([f"k{number}" for number in range(10_050)], absent.now())
    assert not absent.take("k49")
    assert absent.take("k50")
