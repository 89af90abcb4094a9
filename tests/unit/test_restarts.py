"""When a worker that died is started again."""

from __future__ import annotations

from sidecar.server.restarts import STEADY_SECONDS, Restarts


def test_a_worker_that_had_served_is_replaced_at_once() -> None:
    restarts = Restarts()
    assert [restarts.died(STEADY_SECONDS) for _ in range(100)] == [0.0] * 100
    assert not restarts.hopeless


def test_one_that_dies_early_is_waited_for_longer_each_time_up_to_a_bound() -> None:
    restarts = Restarts()
    waits = [restarts.died(0.0) for _ in range(20)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits == sorted(waits)
    assert waits[-1] == 30.0


def test_five_early_ends_in_a_row_are_hopeless_and_one_that_serves_gives_hope() -> None:
    restarts = Restarts()
    for _ in range(4):
        restarts.died(STEADY_SECONDS - 0.1)
    assert not restarts.hopeless
    restarts.died(0.0)
    assert restarts.hopeless
    restarts.steady()
    assert not restarts.hopeless
    assert restarts.died(0.0) == 0.5
