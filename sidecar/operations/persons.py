"""What an operator sees of a person, and the end of the person's connections: `users-devices`, `users-disconnect`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection

from sidecar.changes import Notify
from sidecar.chats import own_change
from sidecar.feed import ENDINGS, SIGN_IN_AGAIN
from sidecar.ids import ChatId, UserHash
from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, result, row
from sidecar.operations.work import Work
from sidecar.records import rfc3339

_CLOSE_SECONDS = 5.0
"""For the sockets to close, on every process; a process that was killed holds its leases for longer."""
_LOOK_SECONDS = 0.05


async def list_devices(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Rows, oldest first: `id`, `name`, `first_seen`, `last_seen`, `verified_at`. Never a secret."""
    devices = await work.parts.store.devices(arguments.person)
    for device in sorted(devices, key=lambda each: (each.first_seen, each.id)):
        yield row(
            id=device.id,
            name=device.name,
            first_seen=rfc3339(device.first_seen),
            last_seen=rfc3339(device.last_seen),
            verified_at=rfc3339(device.verified_at) if device.verified_at is not None else None,
        )
    yield result(count=len(devices))


async def disconnect(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Closes the person's sockets, here at once and on other processes by the person's log.

    Result: `count` closed, and `left`: places of connections that were not given back in time. A process that was killed
    holds them until their leases end.
    """
    user = arguments.person
    mine = work.live.registry.of(user) if work.live is not None else []
    there = {str(connection.id) for connection in mine} | (
        await work.parts.cache.leases.held(connections_of(user))
    ).keys()
    if there:
        await work.parts.cache.chats.commit(own_change(work.parts, user, ChatId(""), Notify("disconnected")))
    for connection in mine:
        connection.close(SIGN_IN_AGAIN, ENDINGS["disconnected"])
    left = await gone(work, user, there)
    yield result(count=len(there) - len(left), left=len(left))


async def gone(work: Work, user: UserHash, connections: Collection[str] | None = None) -> Collection[str]:
    """Waits until these connections of the person (None: all that there are) have given their places back; those that have not."""
    end = asyncio.get_running_loop().time() + _CLOSE_SECONDS
    while True:
        held = (await work.parts.cache.leases.held(connections_of(user))).keys()
        left = held if connections is None else held & set(connections)
        if not left or asyncio.get_running_loop().time() >= end:
            return set(left)
        await asyncio.sleep(_LOOK_SECONDS)


def connections_of(user: str) -> str:
    """The name of the lease whose holders are this person's connections, on every process."""
    return f"connections:{user}"
