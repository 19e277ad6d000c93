"""How long a replica takes for calls of each size, and when an answer is late. Knows times, not calls."""

from collections import deque
from statistics import median_low

# Calls of each size that are remembered, and after how many their median is worked out again.
NUM_REMEMBERED = 64
REFRESH_EVERY = 8
# An answer that takes so many times the median is late, but none before the time that a busy machine may lose.
LATE_FACTOR = 20
MIN_LATE_SECONDS = 0.5


class LatencyBook:
    """The median time of the last calls, by size: 1 row, 2 to 3, 4 to 7, and so on."""

    def __init__(self) -> None:
        self._pages: dict[int, _Page] = {}

    def record(self, num_rows: int, seconds: float) -> None:
        """Note that a call of ``num_rows`` rows was answered after ``seconds``."""
        size = num_rows.bit_length()
        page = self._pages.get(size)
        if page is None:
            page = self._pages[size] = _Page()
        page.add(seconds)

    def late_after(self, num_rows: int) -> float | None:
        """Seconds after which an answer to ``num_rows`` rows is late; None when nothing is known of the replica.

        For a size that has not been seen, time is taken to grow with the rows from the next smaller one that has.
        """
        if not self._pages:
            return None
        size = known = num_rows.bit_length()
        if size not in self._pages:
            known = max((seen for seen in self._pages if seen < size), default=min(self._pages))
        growth: int = 2 ** max(size - known, 0)
        return max(MIN_LATE_SECONDS, LATE_FACTOR * self._pages[known].median * growth)


class _Page:
    def __init__(self) -> None:
        self.median = 0.0
        self._seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._num_added = 0

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)
        if self._num_added % REFRESH_EVERY == 0:
            self.median = median_low(self._seconds)
        self._num_added += 1
