"""The workers of one host, as each of them knows the others: whoever is asked for metrics gives those of all.

Each answers the others on a Unix socket of its own in `data_dir`, 0600.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sidecar.server.assignment import Assignment, socket_of
from sidecar.server.operators import serving_unix, unix_listener
from sidecar.unix_sockets import reachable

_PATIENCE = 1.0
_ASKED_AGAIN = 1.0
"""Seconds for which an answer is good: whoever asks more often asks no other worker (threats T51)."""

Families = list[dict[str, Any]]
"""Metrics as they go from worker to worker."""


class Siblings:
    """The workers of this host, this one among them."""

    def __init__(self, assignment: Assignment, registry: CollectorRegistry) -> None:
        self._assignment = assignment
        self._registry = registry
        self._asking = asyncio.Lock()
        self._asked = float("-inf")
        self._answer = b""

    @property
    def number(self) -> int:
        """Of this worker."""
        return self._assignment.number

    @property
    def assignment(self) -> Assignment:
        return self._assignment

    async def metrics(self) -> bytes:
        """Prometheus text: what every worker counts, with the label `worker`, and which of them answered."""
        async with self._asking:
            if time.monotonic() - self._asked >= _ASKED_AGAIN:
                numbers = range(1, self._assignment.config.server.workers + 1)
                answers = await asyncio.gather(*map(self._families, numbers))
                text = CollectorRegistry()
                text.register(_Together(dict(zip(numbers, answers, strict=True))))
                self._answer = generate_latest(text)
                self._asked = time.monotonic()
        return self._answer

    def own(self) -> Families:
        """What this worker counts."""
        starts = CounterMetricFamily("sidecar_worker_starts", "How often this worker was started.")
        starts.add_metric([], self._assignment.starts)
        return [
            {
                "name": family.name,
                "help": family.documentation,
                "type": family.type,
                "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
            }
            for family in (*self._registry.collect(), starts)
        ]

    async def _families(self, number: int) -> Families | None:
        """None: it does not answer."""
        if number == self.number:
            return self.own()
        try:
            with reachable(socket_of(self._assignment.config, number)) as name:
                async with (
                    asyncio.timeout(_PATIENCE),
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(name)) as session,
                    session.get("http://worker/metrics") as response,
                ):
                    found = orjson.loads(await response.read()) if response.status == 200 else None
        except (OSError, aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
            return None
        return found if isinstance(found, list) else None


@asynccontextmanager
async def answering_siblings(siblings: Siblings) -> AsyncIterator[None]:
    """Answers the other workers while it is entered. Raises `StartRefused`."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(siblings.own()), content_type="application/json")

    assignment = siblings.assignment
    # Whoever has this number now answers: a worker that it replaces has nothing more to say.
    with unix_listener(socket_of(assignment.config, assignment.number), refuse=False) as listener:
        async with serving_unix(listener, [web.get("/metrics", metrics)]):
            yield


class _Together(Collector):
    """The families of several workers as one, told apart by the label `worker`."""

    def __init__(self, answers: dict[int, Families | None]) -> None:
        self._answers = answers

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("sidecar_worker_up", "Whether this worker answered.", labels=["worker"])
        families: dict[str, Metric] = {}
        for number, answer in self._answers.items():
            up.add_metric([str(number)], float(answer is not None))
            for given in answer or ():
                family = families.setdefault(given["name"], Metric(given["name"], given["help"], given["type"]))
                for name, labels, value in given["samples"]:
                    family.add_sample(name, {**labels, "worker": str(number)}, math.nan if value is None else value)
        yield up
        yield from families.values()
