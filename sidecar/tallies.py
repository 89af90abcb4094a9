"""Counters for the way of every frame: prometheus-client's own take a lock at each step, which one thread does not need.

They are read by prometheus-client like any other (`Tallies` is one of its collectors). Main thread only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Count:
    """One number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        self.value += by


class Tally:
    """Numbers by label values."""

    def __init__(self, name: str, help_: str, labels: Sequence[str]) -> None:
        self._name = name
        self._help = help_
        self._labels = labels
        self._counts: dict[tuple[str, ...], Count] = {}

    def labels(self, *values: str) -> Count:
        count = self._counts.get(values)
        if count is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {', '.join(self._labels)}")
            count = self._counts[values] = Count()
        return count

    def collect(self) -> Metric:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        return family


class Timing:
    """How long something took, in seconds, by buckets."""

    def __init__(self, name: str, help_: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._help = help_
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._help)
        reached = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            reached += count
            buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), float(reached)))
        family.add_metric([], buckets, self._sum)
        return family


class Tallies(Collector):
    """All of them, for a registry."""

    def __init__(self, *members: Tally | Timing) -> None:
        self._members = members

    def collect(self) -> Iterator[Metric]:
        for member in self._members:
            yield member.collect()
