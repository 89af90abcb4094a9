"""Medians and spreads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds gave."""

    middle: float
    least: float
    most: float

    def __format__(self, spec: str) -> str:
        if self.least == self.most:
            return format(self.middle, spec)
        return f"{self.middle:{spec}} ({self.least:{spec}}–{self.most:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most; there is at least one value."""
    return Spread(median(values), min(values), max(values))


def ratios(ones: Sequence[float], others: Sequence[float]) -> Spread:
    """Round by round, one over the other: what disturbed the machine in a round disturbed both. NaN over nothing."""
    return spread([one / other if other else nan for one, other in zip(ones, others, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
