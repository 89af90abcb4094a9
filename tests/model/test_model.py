"""The stateful property test of `semantics.md`; how to run it longer stands in `docs/testing.md`.

S10–S18, S20, S22–S23, S25–S31, S38–S45, S48–S54, S61, S67–S73: not one by one, but in every order that chance comes upon.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from sidecar.metrics import Metrics
from tests.model.machine import Sidecar
from tests.model.mutations import MUTATIONS
from tests.model.redis_caches import RedisCaches
from tests.model.reference import Broken
from tests.services.redis_server import RedisServer

TESTS = 8
"""So many, that pytest-xdist spreads them over the cores."""
STEPS = int(os.environ.get("MODEL_STEPS", "100000"))
SEED = int(os.environ.get("MODEL_SEED", "0"))
_SHRINK = "MODEL_STEPS" in os.environ
"""A failure of `make test` is told at once; the same seed with MODEL_STEPS set shrinks it, which takes its time."""
_IN_A_RUN = 200
_FIRST = 1  # Hypothesis counts the beginning of a run as a step; we do not


class SidecarWithRealKeys(Sidecar):
    """With `encryption.local`, key file and all."""

    real_keys = True


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of parts that are away would say so."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**before)


def play(machine: type[Sidecar], number: int, runs: int, *, shrink: bool = True) -> int:
    """Plays so many runs with this seed; how many steps they took."""
    machine = type(machine.__name__, (machine,), {"metrics": Metrics(), "steps": 0})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=runs,
            stateful_step_count=_IN_A_RUN,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            verbosity=Verbosity.normal,
            report_multiple_bugs=False,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return machine.steps


@pytest.mark.timeout(0 if "MODEL_STEPS" in os.environ else 600)  # a failure is shrunken, which takes its time
@pytest.mark.parametrize("number", range(TESTS))
def test_devices_agree_and_nothing_is_lost(number: int) -> None:
    wanted = STEPS // TESTS
    steps = 0
    part = 0
    while steps < wanted:  # a run may be shorter: what cannot be done is no step
        runs = (wanted - steps) // (_IN_A_RUN - _FIRST) + 1
        steps += play(Sidecar, (SEED * 1000 + part) * TESTS + number, runs, shrink=_SHRINK)
        part += 1


def test_devices_agree_with_real_keys() -> None:
    play(SidecarWithRealKeys, SEED, 10)


@pytest.mark.timeout(0 if "MODEL_STEPS" in os.environ else 300)
def test_devices_agree_on_a_real_redis(redis_server: RedisServer) -> None:
    """The same on `cache.redis`: a tenth of the steps, since each of them asks a server."""
    machine = type("OnRedis", (Sidecar,), {"caches": staticmethod(lambda folder: RedisCaches(redis_server.url))})
    steps, part = 0, 0
    while steps < STEPS // 10:
        steps += play(machine, SEED * 1000 + part, 10, shrink=_SHRINK)
        part += 1


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_the_model_notices(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs, on a sidecar that breaks one promise: the model objects, so a green run above says something."""
    MUTATIONS[mutation](monkeypatch)
    with pytest.raises(Broken):
        _short_runs()


def _short_runs() -> None:
    for number in range(6):
        play(Sidecar, number, 15, shrink=False)
