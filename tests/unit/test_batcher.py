"""What waits at the same moment leaves together, and what goes wrong is its caller's alone."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Sequence

import pytest

from sidecar.batcher import Batcher


class Wire:
    """Answers each number with its tenfold, and remembers what left together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.under_way = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def send(self, questions: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(questions))
        self.under_way += 1
        assert self.under_way == 1, "two batches at once"
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        return [ValueError(f"no {each}") if each < 0 else each * 10 for each in questions]


async def test_calls_of_one_moment_leave_together_in_order() -> None:
    wire = Wire()
    ask = Batcher(wire.send)
    assert await asyncio.gather(*(ask(n) for n in range(50))) == [n * 10 for n in range(50)]
    assert wire.batches == [list(range(50))]


async def test_a_batch_has_at_most_most() -> None:
    wire = Wire()
    ask = Batcher(wire.send, most=4)
    await asyncio.gather(*(ask(n) for n in range(10)))
    assert wire.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(ValueError, match="at least one"):
        Batcher(wire.send, most=0)


async def test_with_a_pause_calls_gather_that_come_one_by_one_and_a_full_batch_waits_for_no_more() -> None:
    wire, pauses = Wire(), [0.0, 0.05, 3600.0, 0.0]
    ask = Batcher(wire.send, most=4, pause=lambda: pauses.pop(0))

    async def one_by_one(*numbers: int) -> None:
        calls = []
        for n in numbers:
            calls.append(asyncio.create_task(ask(n)))
            for _ in range(4):
                await asyncio.sleep(0)
        assert await asyncio.gather(*calls) == [n * 10 for n in numbers]

    await one_by_one(1)
    await one_by_one(2, 3)
    await one_by_one(4, 5, 6, 7)
    assert wire.batches == [[1], [2, 3], [4, 5, 6, 7]]
    await asyncio.gather(*(ask(n) for n in range(10, 18)))
    assert wire.batches[3:] == [[10, 11, 12, 13], [14, 15, 16, 17]], "nor is a batch asked that is full already"
    assert pauses == [0.0]


async def test_who_goes_while_calls_gather_is_not_asked_for() -> None:
    wire = Wire()
    ask = Batcher(wire.send, pause=lambda: 0.02)
    gone = asyncio.create_task(ask(1))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await asyncio.sleep(0.05)
    assert wire.batches == []
    assert await ask(2) == 20
    assert wire.batches == [[2]]


async def test_while_a_batch_is_under_way_the_next_gathers() -> None:
    wire = Wire()
    wire.gate.clear()
    ask = Batcher(wire.send)
    calls = [asyncio.create_task(ask(0))]
    for n in range(1, 6):
        await asyncio.sleep(0.001)
        calls.append(asyncio.create_task(ask(n)))
    await asyncio.sleep(0.001)
    assert wire.batches == [[0]]
    wire.gate.set()
    assert await asyncio.gather(*calls) == [0, 10, 20, 30, 40, 50]
    assert wire.batches == [[0], [1, 2, 3, 4, 5]]


async def test_an_exception_is_its_callers_alone() -> None:
    wire = Wire()
    ask = Batcher(wire.send)
    answers = await asyncio.gather(ask(1), ask(-2), ask(3), return_exceptions=True)
    assert answers[0] == 10
    assert answers[2] == 30
    assert isinstance(answers[1], ValueError)
    assert wire.batches == [[1, -2, 3]]


async def test_what_send_raises_is_every_callers_of_that_batch_and_the_next_batch_leaves() -> None:
    tries = 0

    async def send(questions: Sequence[int]) -> Sequence[int | Exception]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("gone")
        return list(questions)

    ask = Batcher(send)
    answers = await asyncio.gather(ask(1), ask(2), return_exceptions=True)
    assert [type(each) for each in answers] == [OSError, OSError]
    assert await ask(3) == 3


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_wrong_number_of_answers_answers_nobody(count: int) -> None:
    async def send(questions: Sequence[int]) -> Sequence[int | Exception]:
        return list(range(count))

    ask = Batcher(send)
    answers = await asyncio.wait_for(asyncio.gather(ask(1), ask(2), return_exceptions=True), 5)
    assert [type(each) for each in answers] == [RuntimeError, RuntimeError]


async def test_an_answer_that_no_future_can_carry_does_not_hang_its_caller() -> None:
    async def send(questions: Sequence[int]) -> Sequence[int | Exception]:
        return [StopIteration() for _ in questions]

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(Batcher(send)(1), 5)


async def test_a_caller_cancelled_while_it_waits_is_not_sent() -> None:
    wire = Wire()
    wire.gate.clear()
    ask = Batcher(wire.send)
    calls = [asyncio.create_task(ask(n)) for n in range(1)]
    await asyncio.sleep(0.001)
    calls += [asyncio.create_task(ask(n)) for n in range(1, 4)]
    await asyncio.sleep(0.001)
    calls[2].cancel()
    await asyncio.sleep(0.001)
    wire.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == [0, 10, 30]
    assert isinstance(answers[2], asyncio.CancelledError)
    assert wire.batches == [[0], [1, 3]]


async def test_a_caller_cancelled_under_way_breaks_nobodys_answer() -> None:
    wire = Wire()
    wire.gate.clear()
    ask = Batcher(wire.send)
    calls = [asyncio.create_task(ask(n)) for n in range(3)]
    await asyncio.sleep(0.001)
    calls[0].cancel()
    await asyncio.sleep(0.001)
    wire.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [10, 20]
    assert await ask(7) == 70


async def test_t50_cancelled_at_random_moments_nobody_gets_anothers_answer() -> None:
    """T50: callers are cancelled at every point of their way; each answer that arrives is the answer to its question."""
    chance = random.Random(50)

    async def send(questions: Sequence[int]) -> Sequence[int | Exception]:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        return [each * 10 for each in questions]

    ask = Batcher(send, most=7)
    cancelled = 0

    async def caller(n: int) -> None:
        nonlocal cancelled
        call = asyncio.create_task(ask(n))
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
        if chance.random() < 0.4:
            call.cancel()
        try:
            assert await call == n * 10
        except asyncio.CancelledError:
            cancelled += 1

    await asyncio.gather(*(caller(n) for n in range(3000)))
    assert 100 < cancelled < 2000


async def test_there_is_no_task_while_nothing_waits() -> None:
    wire = Wire()
    ask = Batcher(wire.send)
    before = asyncio.all_tasks()
    for n in range(3):
        assert await ask(n) == n * 10
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before


async def test_a_call_made_from_a_callback_of_the_last_answer_is_not_forgotten() -> None:
    wire = Wire()
    ask = Batcher(wire.send)
    for n in range(200):  # each call begins in the very turn in which the task of the one before ends
        assert await asyncio.wait_for(ask(n), 5) == n * 10


async def test_after_a_batch_of_several_as_many_are_waited_for_and_no_longer_than_told() -> None:
    wire = Wire()
    ask = Batcher(wire.send, linger=30.0)
    await asyncio.gather(*(ask(n) for n in range(10)))
    calls = [asyncio.create_task(ask(n)) for n in range(10, 16)]
    await asyncio.sleep(0.05)
    assert len(wire.batches) == 1, "six are not ten"
    calls += [asyncio.create_task(ask(n)) for n in range(16, 20)]
    await asyncio.wait_for(asyncio.gather(*calls), 5)
    assert wire.batches[1:] == [list(range(10, 20))]
    ask = Batcher(wire.send, linger=0.05)
    await asyncio.gather(*(ask(n) for n in range(10)))
    assert await asyncio.wait_for(ask(99), 5) == 990, "nobody else comes"
    await asyncio.wait_for(ask(100), 5)


async def test_a_single_call_is_never_made_to_wait_for_others() -> None:
    wire = Wire()
    ask = Batcher(wire.send, linger=3600.0)
    for n in range(5):
        assert await asyncio.wait_for(ask(n), 5) == n * 10


async def test_one_callers_context_is_not_seen_by_the_batch() -> None:
    person: contextvars.ContextVar[str] = contextvars.ContextVar("person")
    seen: list[str | None] = []

    async def send(questions: Sequence[int]) -> Sequence[int | Exception]:
        seen.append(person.get(None))
        return [0 for _ in questions]

    person.set("alice")
    await Batcher(send)(1)
    assert seen == [None]


async def test_when_the_loop_cancels_the_batch_its_callers_do_not_hang() -> None:
    wire = Wire()
    wire.gate.clear()
    ask = Batcher(wire.send, most=1)
    mine = asyncio.all_tasks()
    calls = [asyncio.create_task(ask(n)) for n in range(2)]
    await asyncio.sleep(0.001)
    (batch,) = asyncio.all_tasks() - mine - set(calls)
    batch.cancel()
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert [type(each) for each in answers] == [asyncio.CancelledError] * 2
    wire.gate.set()
    assert await asyncio.wait_for(ask(3), 5) == 30
