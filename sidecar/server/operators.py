"""The operators' socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sidecar.server.context import Context


@asynccontextmanager
async def operators_socket(context: Context) -> AsyncIterator[None]:
    """Being written."""
    yield
