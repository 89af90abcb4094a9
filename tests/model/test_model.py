"""The stateful property test of `semantics.md`; how to run it longer stands in `docs/testing.md`."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from sidecar.metrics import Metrics
from tests.model.machine import Sidecar

RUNS = 8
STEPS = int(os.environ.get("MODEL_STEPS", "100000"))
SEED = int(os.environ.get("MODEL_SEED", "0"))
_IN_A_RUN = 200


def play(machine: type[Sidecar], number: int, runs: int, *, steps: int = _IN_A_RUN) -> int:
    """Plays so many runs with this seed; how many steps they took."""
    machine = type(machine.__name__, (machine,), {"metrics": Metrics(), "steps": 0})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return machine.steps


@pytest.mark.parametrize("number", range(RUNS))
def test_devices_agree_and_nothing_is_lost(number: int) -> None:
    runs = STEPS // RUNS // (_IN_A_RUN - 1) + 1
    assert play(Sidecar, SEED * RUNS + number, runs) >= STEPS // RUNS
