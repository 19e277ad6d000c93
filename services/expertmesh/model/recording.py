"""Work that is done again and again on the same memory, and how much of it to prepare. Knows no tensors."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

Work = Callable[[], None]
# Is told how many sizes are recorded, and of how many.
Report = Callable[[int, int], None]
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


class BySize(Generic[T]):
    """What ``make`` makes of each size that is needed, so that up to ``max_rows`` rows have room."""

    def __init__(self, max_rows: int, make: Callable[[int], T], report: Report = lambda done, total: None) -> None:
        sizes = buckets(max_rows)
        self._made: dict[int, T] = {}
        # The largest first: what it leaves of its memory is enough for the others.
        for index, size in enumerate(reversed(sizes)):
            self._made[size] = make(size)
            report(index + 1, len(sizes))

    def has_room(self, num_rows: int) -> bool:
        """Whether there is one for so many rows."""
        return num_rows <= max(self._made, default=0)

    def smallest(self, num_rows: int) -> T:
        """Return the smallest one with room for so many rows."""
        return self._made[min(size for size in self._made if size >= num_rows)]
