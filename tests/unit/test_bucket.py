"""The token bucket of a socket (T22, T53)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.server.limits import COSTS, Bucket


def _bucket() -> Bucket:
    return Bucket(50.0, 200.0, 200.0, 0.0)


def test_t22_a_burst_passes_and_then_so_many_a_second() -> None:
    bucket = _bucket()
    assert [bucket.take(1.0, 0.0) for _ in range(200)] == [0.0] * 200
    wait = bucket.take(1.0, 0.0)
    assert wait == 2 / 50
    assert bucket.take(1.0, wait) == 0.0


def test_t22_whoever_goes_on_for_a_whole_burst_is_a_flood() -> None:
    bucket = _bucket()
    for _ in range(400):
        bucket.take(1.0, 0.0)
    assert not bucket.flooded
    bucket.take(1.0, 0.0)
    assert bucket.flooded


def test_t22_a_client_that_waits_as_long_as_it_was_told_gets_in() -> None:
    bucket, now = _bucket(), 0.0
    for _ in range(1000):
        wait = bucket.take(1.0, now)
        if wait:
            now += wait
            assert bucket.take(1.0, now) == 0.0
    assert not bucket.flooded


def test_t53_a_sync_costs_more_than_a_draft() -> None:
    bucket = _bucket()
    passed = sum(bucket.take(COSTS["sync_request"], 0.0) == 0.0 for _ in range(1000))
    assert passed == 20


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from([1.0, 3.0, 10.0])), max_size=200))
def test_t22_never_more_than_burst_and_rate(steps: list[tuple[float, float]]) -> None:
    bucket, now, passed = _bucket(), 0.0, 0.0
    for pause, cost in steps:
        now += pause
        if not bucket.take(cost, now):
            passed += cost
    assert passed <= 200 + 50 * now + 1e-6
