"""Holding a lease for as long as some work takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sidecar.errors import Unavailable
from sidecar.slots.cache import Lease, Leases

_TRIES = 3
"""Renewals within the life of a lease; as many that fail in a row, and it has ended."""


@asynccontextmanager
async def holding(
    leases: Leases, lease: Lease, seconds: float, lost: Callable[[], object] = lambda: None
) -> AsyncIterator[None]:
    """Renews a lease of so many seconds that was just taken, and leaves it at the end.

    `lost` is called, once, when somebody else has it or it cannot be renewed any more; renewing goes on.
    """
    renewing = asyncio.create_task(_renew(leases, lease, seconds, lost))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        try:
            await leases.leave(lease)
        except Unavailable:
            pass  # it ends by itself


async def _renew(leases: Leases, lease: Lease, seconds: float, lost: Callable[[], object]) -> None:
    failures, told = 0, False
    while True:
        await asyncio.sleep(seconds / _TRIES)
        try:
            failures = 0 if await leases.take(lease.name, lease.holder, seconds) is not None else _TRIES
        except Unavailable:
            failures += 1
        if failures >= _TRIES and not told:
            told = True
            lost()
