"""What `doctor` finds in the outbox: what is parked, what does not move, what waits for nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta

from sidecar.findings import Finding
from sidecar.slots.cache import Position

_STANDS_STILL = timedelta(minutes=10)


def outbox_findings(positions: Mapping[str, Position], loaded: Collection[str], now: datetime) -> Iterator[Finding]:
    """`loaded`: the plugins that have a position of their own now."""
    for name, position in positions.items():
        if name not in loaded:
            yield Finding(
                "position-gone",
                "warning",
                f"{position.pending} entries wait for the plugin {name}, which is not loaded any more",
                f"sidecar plugins forget {name}, or load it again",
            )
            continue
        if position.parked:
            yield Finding(
                "dead-letters",
                "error",
                f"{position.parked} entries are parked for {name}: it would not take them",
                f"sidecar dead-letters list --plugin {name}; mend the cause, then replay",
            )
        if position.oldest is not None and now - position.oldest > _STANDS_STILL:
            minutes = (now - position.oldest).total_seconds() / 60
            yield Finding(
                "outbox-lag",
                "error",
                f"{position.pending} entries wait for {name}, the oldest for {minutes:.0f} minutes",
                f"see that what {name} writes to can be reached, and what /readyz and the log say of it",
            )
