"""Waiting for what servers tell only when they are asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from redis.exceptions import RedisError


async def until(condition: Callable[[], Awaitable[bool]], otherwise: str, patience: float = 60) -> None:
    """Asks again and again until it holds; a Redis error is a no."""
    deadline = time.monotonic() + patience
    why: RedisError | None = None
    while time.monotonic() < deadline:
        try:
            if await condition():
                return
        except RedisError as error:  # a server that is still loading, or just going
            why = error
        await asyncio.sleep(0.02)
    raise AssertionError(f"{otherwise} within {patience} s") from why
