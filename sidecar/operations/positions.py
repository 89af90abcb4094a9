"""Positions of plugins in the outbox: `plugins-positions`, `plugins-forget`."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sidecar.operations.arguments import Arguments
from sidecar.operations.lines import Line, OperationRefused, result, row
from sidecar.operations.work import Work
from sidecar.records import rfc3339


async def list_positions(work: Work, _: Arguments) -> AsyncGenerator[Line, None]:
    """Rows: `name`, `pending`, `parked`, `oldest` (when the oldest pending entry was appended), `loaded`."""
    listening = {listener.name for listener in work.plugins.listeners}
    positions = await work.parts.cache.outbox.positions()
    for name, position in positions.items():
        yield row(
            name=name,
            pending=position.pending,
            parked=position.parked,
            oldest=rfc3339(position.oldest) if position.oldest is not None else None,
            loaded=name in listening,
        )
    yield result(count=len(positions))


async def forget_position(work: Work, arguments: Arguments) -> AsyncGenerator[Line, None]:
    """Drops a position with everything that waits for it, parked entries too. One that is loaded now is refused."""
    name = arguments.name
    if name is None:
        raise OperationRefused("nothing says which plugin is meant", "give its name")
    if name in work.plugins.names:
        raise OperationRefused(
            f"{name} is loaded now, and its position is in use", "take it out of the YAML and restart the sidecar first"
        )
    outbox = work.parts.cache.outbox
    positions = await outbox.positions()
    position = positions.get(name)
    if position is None:
        raise OperationRefused(
            f"the outbox knows no plugin {name}", f"it knows: {', '.join(sorted(positions)) or 'none'}"
        )
    await outbox.forget(name)
    yield result(name=name, pending=position.pending, parked=position.parked)
