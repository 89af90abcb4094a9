"""The end of tasks that talk to Redis."""

from __future__ import annotations

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancels them, and returns when they are over.

    Again and again: redis-py writes within `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes at the
    moment when the writing is done.
    """
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
