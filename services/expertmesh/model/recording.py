"""Work that is done again and again on the same memory, and how much of it to prepare. Knows no tensors."""

from collections.abc import Callable
from typing import Protocol

Work = Callable[[], None]
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Record(Protocol):
    """Makes of work what does the same again, such as the replay of a CUDA graph; it returns once that is done."""

    def __call__(self, work: Work) -> Work:
        """Run ``work``, which may be more than once, and return how to repeat it."""
        ...


def run_directly(work: Work) -> Work:
    """Repeat work by doing it: what a CPU does."""
    return work


def buckets(max_rows: int) -> list[int]:
    """Return the sizes to record so that every step of up to ``max_rows`` rows has room."""
    return [size for size, smaller in zip(BUCKETS, (0, *BUCKETS), strict=False) if smaller < max_rows]
