"""Whether Directus takes a token, and who is behind it: asked once by however many, and forgotten when it may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from plugins.auth.directus_line import Line
from plugins.auth.directus_pace import Pace
from plugins.auth.directus_people import People, Person, person_of
from plugins.auth.directus_sessions import OpenSessions
from plugins.auth.directus_tokens import Kind, Token
from plugins.auth.directus_vouchers import Vouched, Vouchers
from sidecar import Unauthenticated, Unavailable
from tests.unit.fake_time import FakeTime


class Source:
    """Says what a test wants of a token, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    async def ask(self, token: Token) -> Vouched:
        self.asked.append(token.text)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return Vouched(f"user of {token.text}")


def vouchers(source: Source, clock: list[float]) -> Vouchers:
    return Vouchers(source.ask, Line(Pace(1000), 4.0), Line(Pace(1000), 8.0), lambda: clock[0])


STATIC, SESSION = Token("static", Kind.STATIC), Token("session", Kind.SESSION, "anna", "s")


async def test_many_who_ask_at_once_are_one_question_and_one_who_goes_takes_it_from_nobody() -> None:
    source, clock = Source(), [0.0]
    asked = vouchers(source, clock)
    source.go_on.clear()
    waiting = [asyncio.create_task(asked.of(SESSION, 10.0)) for _ in range(20)]
    await asyncio.sleep(0.02)
    waiting[0].cancel()
    source.go_on.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {answer.user_id for answer in answers[1:] if isinstance(answer, Vouched)} == {"user of session"}
    assert source.asked == ["session"]
    await asked.of(SESSION, 10.0)
    clock[0] = 10.0
    await asked.of(SESSION, 10.0)
    assert len(source.asked) == 2, "an answer is good for its time"
    await asked.of(SESSION, 10.0, fresh=True)
    assert len(source.asked) == 3


async def test_a_static_token_is_asked_about_again_once_somebody_was_changed() -> None:
    source, clock = Source(), [0.0]
    asked = vouchers(source, clock)
    await asked.of(STATIC, 100.0)
    await asked.of(SESSION, 100.0)
    asked.drop_static()
    await asked.of(STATIC, 100.0)
    await asked.of(SESSION, 100.0)
    assert source.asked == ["static", "session", "static"]
    # Changed while it was being asked: what is answered now may be older.
    asked.drop_static()
    source.go_on.clear()
    under_way = asyncio.create_task(asked.of(STATIC, 100.0))
    await asyncio.sleep(0.01)
    asked.drop_static()
    source.go_on.set()
    await under_way
    await asked.of(STATIC, 100.0)
    assert source.asked.count("static") == 4


async def test_a_refusal_is_remembered_by_nobody_and_ends_what_was_known() -> None:
    source, clock = Source(), [0.0]
    asked = vouchers(source, clock)
    await asked.of(SESSION, 100.0)
    source.error = Unauthenticated("over")
    with pytest.raises(Unauthenticated):
        await asked.of(SESSION, 100.0, fresh=True)
    with pytest.raises(Unauthenticated):
        await asked.of(SESSION, 100.0)
    source.error = None
    assert (await asked.of(SESSION, 100.0)).user_id == "user of session"


async def test_people_who_were_changed_while_they_were_read_are_read_again() -> None:
    """Else a suspension that comes in between would be forgotten for as long as an answer is kept."""
    statuses = {"anna": "active"}
    calls = 0
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def read(user_ids: object) -> dict[str, Person]:
        nonlocal calls
        calls += 1
        found = {name: Person(name, status) for name, status in statuses.items()}
        reading.set()
        await go_on.wait()
        return found

    people = People(read, kept=lambda: 45.0, pace=Pace(1000))
    asked = [asyncio.create_task(people.find("anna")) for _ in range(300)]
    await reading.wait()
    statuses["anna"] = "suspended"
    people.drop(["anna"])
    go_on.set()
    answers = await asyncio.gather(*asked)
    assert {answer.status for answer in answers if answer is not None} == {"suspended"}
    assert calls == 2, "and all of them were one question"
    assert (await people.find("anna")) == Person("anna", "suspended")
    assert calls == 2
    assert await people.find("nobody") is None


async def test_an_answer_is_as_old_as_its_question_whatever_that_waited_for() -> None:
    source, time = Source(), FakeTime()
    line = Line(Pace(1, time.clock), 60.0, time.clock, time.sleep)
    asked = Vouchers(source.ask, line, Line(Pace(1000), 8.0), time.clock)
    await asked.of(STATIC, 100.0)
    for number in range(5):
        before = asyncio.create_task(asked.of(Token(f"before {number}", Kind.STATIC), 100.0))
        await time.settle()
    waiting = asyncio.create_task(asked.of(SESSION, 2.0))
    await time.run(6.0)
    await asyncio.gather(before, waiting)
    await asked.of(SESSION, 2.0)
    assert source.asked.count("session") == 1
    time.now += 2.0
    again = asyncio.create_task(asked.of(SESSION, 2.0))
    await time.run(1.0)
    await again
    assert source.asked.count("session") == 2
    await asked.close()


async def test_looks_at_those_who_are_here_do_not_wait_behind_those_who_come() -> None:
    source = Source()
    asked = Vouchers(source.ask, Line(Pace(1), 4.0), Line(Pace(1000), 8.0))
    coming = [asyncio.create_task(asked.of(Token(f"new {number}", Kind.STATIC), 10.0)) for number in range(50)]
    await asyncio.sleep(0.01)
    assert (await asked.of(SESSION, 0.0, fresh=True)).user_id == "user of session"
    assert source.asked == ["new 0", "session"]
    told = [task.exception() for task in coming if task.done()][1:]
    assert len(told) > 40
    assert all(isinstance(error, Unavailable) and error.retry_after for error in told)
    await asked.close()
    await asyncio.gather(*coming, return_exceptions=True)


class Register:
    """Has everybody, and counts who was read together."""

    def __init__(self, people_kept: float, clock: list[float]) -> None:
        self.reads: list[int] = []
        self.pace = Pace(20, lambda: clock[0])
        self.people = People(self.read, kept=lambda: people_kept, pace=self.pace, clock=lambda: clock[0])

    async def read(self, user_ids: Sequence[str]) -> dict[str, Person]:
        self.reads.append(len(user_ids))
        return {each: Person(each, "active") for each in user_ids}

    async def finds(self, *names: str, fresh: bool = False) -> None:
        """One after the other, as their sockets come."""
        asked = []
        for name in names:
            asked.append(asyncio.create_task(self.people.find(name, fresh=fresh)))
            for _ in range(5):
                await asyncio.sleep(0)
        for person in await asyncio.gather(*asked):
            assert person is not None


async def test_people_are_read_at_once_while_few_come_and_gather_while_many_do() -> None:
    clock = [100.0]
    register = Register(45.0, clock)
    await register.finds("anna", "bert", "cleo")
    assert register.reads == [1, 1, 1], "each without a wait"
    for _ in range(5):
        register.pace.count()  # tokens that are asked about in the same second
    clock[0] += 0.45
    await register.finds(*(f"user {number}" for number in range(30)))
    assert register.reads == [1, 1, 1, 30]
    clock[0] += 2.0
    await register.finds("dora")
    assert register.reads[-1] == 1, "the crowd is over, and one who comes alone waits for nobody"


async def test_a_hundred_people_do_not_wait_for_more_and_what_is_fresh_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("plugins.auth.directus_people._GATHER_SECONDS", 3600.0)
    clock = [100.0]
    register = Register(45.0, clock)
    await register.finds("anna")
    for _ in range(20):
        register.pace.count()
    names = [f"user {number}" for number in range(100)]
    await register.finds(*names)
    assert register.reads == [1, 100]
    await register.finds(*names)
    assert register.reads == [1, 100], "they are known"
    await register.finds(*names, fresh=True)
    assert register.reads == [1, 100, 100]


async def test_calls_that_read_people_take_turns_from_tokens() -> None:
    clock = [100.0]
    register = Register(45.0, clock)
    for _ in range(19):
        register.pace.count()
    await register.finds("anna")
    assert register.pace.wait() == 1.0, "twenty in this second, with the one that read Anna"


def test_a_row_is_a_person_with_as_much_of_a_name_as_is_wanted() -> None:
    row = {"id": "a", "status": "active", "role": None, "first_name": " Anna ", "last_name": None, "tfa_secret": "***"}
    assert person_of(row, "full") == Person("a", "active", None, "Anna", True)
    assert person_of({**row, "last_name": "Müller"}, "full") == Person("a", "active", None, "Anna Müller", True)
    assert person_of({**row, "last_name": "Müller", "tfa_secret": None}, "first") == Person("a", "active", None, "Anna")
    assert person_of({**row, "role": "r"}, "none") == Person("a", "active", "r", None, True)
    for wrong in (
        {},
        {"id": "a"},
        {"id": 7, "status": "active"},
        {"id": "", "status": "active"},
        {"id": "a", "status": 1},
    ):
        assert person_of(wrong, "full") is None


def test_a_session_that_is_shown_no_more_is_forgotten() -> None:
    now = [0.0]
    sessions = OpenSessions(lambda: now[0])
    sessions.shown("anna", SESSION)
    sessions.shown("anna", STATIC)
    assert len(sessions.tokens("anna")) == 2
    now[0] = 140.0
    sessions.shown("anna", STATIC)
    now[0] = 160.0
    assert list(sessions.users()) == ["anna"]
    assert [token.text for token in sessions.tokens("anna")] == ["static"]
    sessions.ended("anna", STATIC)
    assert list(sessions.users()) == []
    sessions.ended("nobody", STATIC)
