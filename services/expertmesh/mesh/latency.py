"""How long a replica takes for calls of each size, and when an answer takes longer. Knows times, not calls."""

import math
from collections import deque

# Calls of each size that are remembered, and after how many they are put in order again.
NUM_REMEMBERED = 64
REFRESH_EVERY = 8
# An answer that takes so many times the median is late, but none before the time that a busy machine may lose.
LATE_FACTOR = 20
MIN_LATE_SECONDS = 0.5
# One that takes longer than this share of them is worth asking for elsewhere, but none before other threads had a turn.
HEDGE_QUANTILE = 0.99
MIN_HEDGE_SECONDS = 0.01
# What the last call weighs in what is expected of the next: it takes two to call a replica slow, and few to forgive it.
WEIGHT_OF_SLOWER = 0.25
WEIGHT_OF_FASTER = 0.5
# Who waited for less than this share of the time found the answer there.
WAITED_SHARE = 0.1


class LatencyBook:
    """The times of the last calls, by size: 1 row, 2 to 3, 4 to 7, and so on.

    For a size that has not been seen, time is taken to grow with the rows from the next smaller one that has.
    """

    def __init__(self) -> None:
        self._pages: dict[int, _Page] = {}

    def record(self, num_rows: int, seconds: float, waited_seconds: float = math.inf) -> None:
        """Note that a call of ``num_rows`` rows was answered after ``seconds``.

        Of these somebody waited for it ``waited_seconds``: an answer that lay there already, while others were waited
        for, tells only that it took no longer.
        """
        expected = self.expected_seconds(num_rows)
        if expected is not None and waited_seconds < WAITED_SHARE * seconds:
            seconds = min(seconds, expected)
        size = num_rows.bit_length()
        page = self._pages.get(size)
        if page is None:
            page = self._pages[size] = _Page(seconds)
        page.add(seconds)

    def expected_seconds(self, num_rows: int) -> float | None:
        """Seconds that the next call is likely to take; None when nothing is known of the replica."""
        page, growth = self._find(num_rows)
        return page.expected * growth if page else None

    def hedge_after(self, num_rows: int) -> float | None:
        """Seconds after which an answer had better be asked of another replica; None as above."""
        page, growth = self._find(num_rows)
        return max(MIN_HEDGE_SECONDS, page.most * growth) if page else None

    def late_after(self, num_rows: int) -> float | None:
        """Seconds after which an answer is late; None as above."""
        page, growth = self._find(num_rows)
        return max(MIN_LATE_SECONDS, LATE_FACTOR * page.median * growth) if page else None

    def _find(self, num_rows: int) -> "tuple[_Page | None, int]":
        size = num_rows.bit_length()
        page = self._pages.get(size)
        if page is not None or not self._pages:
            return page, 1
        known = max((seen for seen in self._pages if seen < size), default=min(self._pages))
        growth: int = 2 ** max(size - known, 0)
        return self._pages[known], growth


class _Page:
    """Calls of one size: their ``median``, what ``most`` of them took at most, and what is ``expected`` of the next."""

    def __init__(self, seconds: float) -> None:
        self.median = self.most = self.expected = seconds
        self._seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._num_added = 0

    def add(self, seconds: float) -> None:
        weight = WEIGHT_OF_SLOWER if seconds > self.expected else WEIGHT_OF_FASTER
        self.expected += weight * (seconds - self.expected)
        self._seconds.append(seconds)
        if self._num_added % REFRESH_EVERY == 0:
            ordered = sorted(self._seconds)
            self.median = ordered[(len(ordered) - 1) // 2]
            self.most = ordered[math.ceil(HEDGE_QUANTILE * len(ordered)) - 1]
        self._num_added += 1
