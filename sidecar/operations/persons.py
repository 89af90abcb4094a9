"""What an operator sees of a person, and the end of the person's connections: `users-devices`, `users-disconnect`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, result, row
from sidecar.operations.work import Work
from sidecar.records import rfc3339

CLOSED_BY_OPERATOR = 4401
"""A client answers it with a fresh token, once: the device may come back, and has to show who it is."""


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
    """Closes the person's sockets on this process. Result: `count`, and `elsewhere`: sockets that other processes hold."""
    user = arguments.person
    mine = work.live.registry.of(user) if work.live is not None else []
    held = await work.parts.cache.leases.held(connections_of(user))
    for connection in mine:
        connection.close(CLOSED_BY_OPERATOR, "an operator closed this connection; sign in again")
    elsewhere = len(held.keys() - {str(connection.id) for connection in mine})
    yield result(count=len(mine), elsewhere=elsewhere)


def connections_of(user: str) -> str:
    """The name of the lease whose holders are this person's connections, on every process."""
    return f"connections:{user}"
