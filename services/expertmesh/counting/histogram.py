"""Values counted by size. Knows numbers, not what they measure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HistogramSnapshot:
    """What a histogram had counted at one moment: values per bucket, and the sum of all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


class Histogram:
    """Counts values in buckets; ``bounds`` are their upper ends, ascending, and one more bucket takes what is above."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @property
    def num_values(self) -> int:
        """Values counted so far."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Count a value; one that equals a bound belongs below it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def snapshot(self) -> HistogramSnapshot:
        """Copy what has been counted so far."""
        return HistogramSnapshot(self.bounds, tuple(self.counts), self.sum)
