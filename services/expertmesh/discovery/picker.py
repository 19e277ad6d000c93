"""Which of several replicas takes the next call. Knows how busy they are, not what they do."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """Something that knows how many rows it still owes an answer for."""

    @property
    def inflight_rows(self) -> int:
        """Rows sent and not yet answered."""
        ...


R = TypeVar("R", bound=Loaded)


def pick_less_loaded(replicas: Sequence[R], rng: random.Random) -> R:
    """Take two of ``replicas`` at random and return the one with fewer rows in flight.

    Two random choices are nearly as even as asking all of them, without everybody running to the same idle one
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
    """
    if len(replicas) == 1:
        return replicas[0]
    first, second = rng.sample(replicas, 2)
    return second if second.inflight_rows < first.inflight_rows else first
