"""Servers that a test starts one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

AnyServer = TypeVar("AnyServer")


@asynccontextmanager
async def several(
    kind: Callable[..., AbstractAsyncContextManager[AnyServer]], folder: Path
) -> AsyncIterator[Callable[..., Awaitable[AnyServer]]]:
    """Gives what starts one with the options of its `kind`: in `folder-1`, the next in `folder-2`. All end with the context."""
    async with AsyncExitStack() as started:
        numbers = count(1)

        async def start(**options: Any) -> AnyServer:
            own = folder.with_name(f"{folder.name}-{next(numbers)}")
            return await started.enter_async_context(kind(own, **options))

        yield start
