"""Counters that prometheus-client reads like its own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from sidecar.tallies import Tallies, Tally, Timing


def test_what_is_counted_is_read_as_prometheus_text() -> None:
    frames, plain = Tally("sidecar_frames", "Frames.", ["type"]), Tally("sidecar_events", "Events.", [])
    took = Timing("sidecar_seconds", "Seconds.", (0.01, 0.1))
    registry = CollectorRegistry()
    registry.register(Tallies(frames, plain, took))
    frames.labels("ping").inc()
    frames.labels("ping").inc(2)
    plain.labels().inc(5)
    for seconds in (0.001, 0.01, 0.05, 3.0):
        took.observe(seconds)
    text = generate_latest(registry).decode()
    assert 'sidecar_frames_total{type="ping"} 3.0' in text
    assert "sidecar_events_total 5.0" in text
    assert registry.get_sample_value("sidecar_seconds_bucket", {"le": "0.01"}) == 2
    assert registry.get_sample_value("sidecar_seconds_bucket", {"le": "0.1"}) == 3
    assert registry.get_sample_value("sidecar_seconds_bucket", {"le": "+Inf"}) == 4
    assert registry.get_sample_value("sidecar_seconds_count", {}) == 4
    assert registry.get_sample_value("sidecar_seconds_sum", {}) == pytest.approx(3.061)


def test_a_tally_wants_all_of_its_labels() -> None:
    with pytest.raises(ValueError, match="type"):
        Tally("frames", "Frames.", ["type"]).labels()
