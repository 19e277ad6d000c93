"""Which of several replicas takes the next call. Knows how busy and how new they are, not what they do.

Time is an argument everywhere, in seconds of a clock that only goes forward.
"""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

SLOW_START_SECONDS = 10.0
# What a replica gets at first, as a share of what a proven one gets.
FIRST_SHARE = 0.1
# Replicas of which none takes longer than so many times another are equally fast, but for chance.
EQUAL_FACTOR = 2.0
# The slowest still gets this share, or nobody would see that it is fast again.
LEAST_SHARE = 1 / 256


class Loaded(Protocol):
    """Something that knows how many rows it still owes an answer for, and since when it has been asked."""

    @property
    def inflight_rows(self) -> int:
        """Rows sent and not yet answered."""
        ...

    @property
    def started_at(self) -> float:
        """When it appeared or came back."""
        ...

    def expected_seconds(self, num_rows: int) -> float | None:
        """How long it has taken for such calls lately; None when it has not answered any."""
        ...


R = TypeVar("R", bound=Loaded)


def pick_replica(replicas: Sequence[R], num_rows: int, now: float, rng: random.Random) -> R:
    """Take two of ``replicas`` at random and return the one with fewer rows in flight, for a call of ``num_rows``.

    Two random choices are nearly as even as asking all of them, without everybody running to the same idle one
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). A replica that has just started
    wins only as often as its share allows, or it would get every row until it is as busy as the others; and so does one
    that is slower than the other.
    """
    if len(replicas) == 1:
        return replicas[0]
    winner, other = rng.sample(replicas, 2)
    if other.inflight_rows < winner.inflight_rows:
        winner, other = other, winner
    share = _share_of_slower(winner, other, num_rows)
    if share == 1 and now - winner.started_at >= SLOW_START_SECONDS:
        return winner
    return winner if rng.random() * _share(other, now) < _share(winner, now) * share else other


def _share(replica: Loaded, now: float) -> float:
    """Grow from the first share to 1 while the replica starts slowly."""
    return min(1.0, max(FIRST_SHARE, (now - replica.started_at) / SLOW_START_SECONDS))


def _share_of_slower(replica: Loaded, other: Loaded, num_rows: int) -> float:
    """Shrink from 1 with the square of how many times longer than the other one a replica takes."""
    mine, others = replica.expected_seconds(num_rows), other.expected_seconds(num_rows)
    if not mine or others is None or mine <= EQUAL_FACTOR * others:
        return 1.0
    return max(LEAST_SHARE, (EQUAL_FACTOR * others / mine) ** 2)
