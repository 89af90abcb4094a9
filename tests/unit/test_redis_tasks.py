"""Tasks that talk to Redis end, whatever loses a cancellation of theirs."""

from __future__ import annotations

import asyncio

import pytest

from plugins.cache import redis_tasks


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_tasks, "_AGAIN_SECONDS", 0.01)


async def deaf(times: int, heard: list[int]) -> None:
    """Loses so many cancellations, as `asyncio.wait_for` can before Python 3.12."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            heard.append(times)
            if not times:
                raise
            times -= 1


async def test_a_task_that_loses_cancellations_ends_with_a_later_one() -> None:
    heard: list[int] = []
    tasks = [asyncio.create_task(deaf(times, heard)) for times in (0, 1, 3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await redis_tasks.end(*tasks)
    assert all(task.cancelled() for task in tasks)
    assert sorted(heard) == [0, 0, 0, 1, 1, 2, 3]


async def test_one_that_has_ended_or_failed_is_no_trouble() -> None:
    async def fail() -> None:
        raise RuntimeError("long ago")

    tasks = [asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(fail())]
    await asyncio.wait(tasks)
    await redis_tasks.end(*tasks)
    await redis_tasks.end()
