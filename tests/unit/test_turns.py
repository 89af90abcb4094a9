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


def _turn(all_: Turns, read_on: list[str]) -> Turn:
    return Turn(all_, lambda: read_on.append("read on"))


async def test_a_frame_that_waits_for_nothing_ends_no_turn() -> None:
    read_on: list[str] = []
    all_ = Turns()
    turn = _turn(all_, read_on)
    for _ in range(3):
        assert await _frame(all_, turn, 0) == "answered"
    await asyncio.sleep(0.01)
    assert (turn.over, read_on) == (False, [])


async def test_a_frame_that_waits_ends_the_turn_once() -> None:
    read_on: list[str] = []
    all_ = Turns()
    turn = _turn(all_, read_on)
    assert await _frame(all_, turn, 0) == "answered"
    assert await _frame(all_, turn, 0.01) == "answered"
    assert await _frame(all_, turn, 0.01) == "answered"
    assert (turn.over, read_on) == (True, ["read on"])


async def test_what_takes_too_long_is_cut_off_and_the_next_frame_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FRAME_SECONDS", 0.05)
    all_ = Turns()
    turn = _turn(all_, [])
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
        all_ = Turns()
        turn = _turn(all_, [])
        assert await _frame(all_, turn, waits, 0.2) == "answered"
        assert turn.over


async def test_each_frame_is_cut_off_at_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever became of those that began before it, and of those of the same turn."""
    monkeypatch.setattr(turns, "FRAME_SECONDS", 0.1)
    all_ = Turns()

    async def after(seconds: float, *waits: float) -> list[tuple[str, float]]:
        await asyncio.sleep(seconds)
        turn, told = _turn(all_, []), []
        for each in waits:
            began = asyncio.get_running_loop().time()
            became = await _frame(all_, turn, each)
            told.append((became, asyncio.get_running_loop().time() - began))
        return told

    found = await asyncio.gather(after(0, 0.02), after(0.01, 20), after(0.05, 0.06, 0.07, 20), after(0.12, 20))
    assert [became for told in found for became, _ in told] == [
        "answered",
        "too long",
        "answered",
        "answered",
        "too long",
        "too long",
    ]
    assert all(0.1 <= seconds < 1 for told in found for became, seconds in told if became == "too long")


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
    all_ = Turns()
    return await _frame(all_, _turn(all_, []), 20)
