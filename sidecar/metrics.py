"""What is counted, for `/metrics`. Labels are bounded: kinds, codes and names of plugins; never a person, chat or device (T39)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar.tallies import Tallies, Tally, Timing

_CODES = frozenset(
    {1000, 1001, 1002, 1003, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 4008, 4400, 4401, 4403, 4408, 4410, 4429}
)


def close_label(code: int | None) -> str:
    """A close code as a label: those of the protocol; a client may send any of thousands, which are all `other`."""
    if code is None:
        return "none"
    return str(code) if code in _CODES else "other"


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        registry = self.registry
        self.connections = Gauge("sidecar_connections", "Open authenticated sockets.", registry=registry)
        self.opened = Counter("sidecar_connections_opened", "Sockets that became ready.", registry=registry)
        self.closed = Counter(
            "sidecar_connections_closed", "Sockets closed, by close code.", ["code"], registry=registry
        )
        self.refused = Counter(
            "sidecar_handshakes_refused", "Refused before the upgrade.", ["reason"], registry=registry
        )
        self.frames = Tally("sidecar_frames", "Client frames, by type.", ["type"])
        self.errors = Tally("sidecar_errors", "Error frames sent, by code.", ["code"])
        self.accepted = Tally("sidecar_changes_accepted", "Accepted changes, by kind.", ["kind"])
        self.conflicts = Counter(
            "sidecar_conflicts", "Refused changes, by kind and reason.", ["kind", "reason"], registry=registry
        )
        self.undecryptable = Counter("sidecar_undecryptable", "Values that did not open.", ["field"], registry=registry)
        self.events = Tally("sidecar_events", "Events sent to connections.", [])
        self.resyncs = Counter("sidecar_resyncs", "resync_required sent, by reason.", ["reason"], registry=registry)
        self.syncs = Counter("sidecar_syncs", "Sync answers, by kind.", ["kind"], registry=registry)
        self.handled = Timing(
            "sidecar_frame_seconds",
            "From a frame's arrival to its answer.",
            (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        registry.register(Tallies(self.frames, self.errors, self.accepted, self.events, self.handled))
        self.delivered = Counter(
            "sidecar_outbox_delivered", "Outbox calls, by plugin and result.", ["plugin", "result"], registry=registry
        )
        self.outbox_pending = Gauge(
            "sidecar_outbox_pending", "Entries waiting, by plugin.", ["plugin"], registry=registry
        )
        self.outbox_parked = Gauge("sidecar_outbox_parked", "Dead letters, by plugin.", ["plugin"], registry=registry)
        self.outbox_lag = Gauge(
            "sidecar_outbox_lag_seconds", "Age of the oldest waiting entry, by plugin.", ["plugin"], registry=registry
        )
        self.hooks = Gauge(
            "sidecar_hook_calls",
            "Hook calls so far, by plugin, hook and result.",
            ["plugin", "hook", "result"],
            registry=registry,
        )
        self.keys = Gauge("sidecar_key_cache", "Key cache so far, by result.", ["result"], registry=registry)
        self.keys_held = Gauge("sidecar_key_cache_keys", "Keys in memory.", registry=registry)
        self.blocked = Gauge(
            "sidecar_loop_blocked_seconds", "How long the event loop has not answered.", registry=registry
        )
