"""A reader answers frames itself until one has to wait; then another reads on, and the frame has a deadline."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.server import turns
from sidecar.server.turns import Turn, Turns


async def _frame(all_: Turns, turn: Turn, waits: float, after: float = 0) -> str:
    """As `Socket` works on one frame; it may have to wait after its answer, too."""
    if not turn.over:
        all_.begin(turn)
    turn.limit()
    try:
        if waits:
            await asyncio.sleep(waits)
    except asyncio.CancelledError:
        if not turn.unlimit():
            raise
        return "too long"
    finally:
        turn.unlimit()
    if after:
        await asyncio.sleep(after)
    turn.done = True
    return "answered"


def _turn(read_on: list[str]) -> Turn:
    return Turn(lambda: read_on.append("read on"))


async def test_a_frame_that_waits_for_nothing_ends_no_turn() -> None:
    read_on: list[str] = []
    all_, turn = Turns(), _turn(read_on)
    for _ in range(3):
        assert await _frame(all_, turn, 0) == "answered"
    await asyncio.sleep(0.01)
    assert (turn.over, read_on) == (False, [])


async def test_a_frame_that_waits_ends_the_turn_once() -> None:
    read_on: list[str] = []
    all_, turn = Turns(), _turn(read_on)
    assert await _frame(all_, turn, 0) == "answered"
    assert await _frame(all_, turn, 0.01) == "answered"
    assert await _frame(all_, turn, 0.01) == "answered"
    assert (turn.over, read_on) == (True, ["read on"])


async def test_what_takes_too_long_is_cut_off_and_the_next_frame_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FRAME_SECONDS", 0.05)
    all_, turn = Turns(), _turn([])
    assert await _frame(all_, turn, 20) == "too long"
    assert await _frame(all_, turn, 0.001) == "answered"
    assert await _frame(all_, turn, 20) == "too long"
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_what_is_answered_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait for the feed, which has its own patience."""
    monkeypatch.setattr(turns, "FRAME_SECONDS", 0.05)
    for waits in (0, 0.001):
        turn = _turn([])
        assert await _frame(Turns(), turn, waits, 0.2) == "answered"
        assert turn.over


async def test_whoever_ends_the_task_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the very moment in which the deadline passes."""
    monkeypatch.setattr(turns, "FRAME_SECONDS", 0.05)
    for after in (0.01, 0.05):
        task = asyncio.create_task(_alone())
        await asyncio.sleep(after)
        task.cancel()
        (done,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(done, asyncio.CancelledError) or (after == 0.05 and done == "too long")


async def _alone() -> str:
    return await _frame(Turns(), _turn([]), 20)
