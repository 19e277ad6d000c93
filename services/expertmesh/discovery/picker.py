"""Which of several replicas takes the next call. Knows how busy and how proven they are, not what they do.

Time is an argument everywhere, in seconds of a clock that only goes forward.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

SLOW_START_SECONDS = 10.0
# What a replica gets at first, as a share of what a proven one gets.
FIRST_SHARE = 0.1

MAX_CONSECUTIVE_ERRORS = 3
MIN_EJECTION_SECONDS = 1.0
MAX_EJECTION_SECONDS = 60.0


@dataclass(frozen=True)
class Health:
    """How a replica has answered lately: errors without a success between them, and how often that ejected it.

    ``ejected_until`` is the end of the last ejection, 0 when there was none.
    """

    num_consecutive_errors: int = 0
    num_ejections: int = 0
    ejected_until: float = 0.0

    def is_ejected(self, now: float) -> bool:
        """Whether the replica is being left alone."""
        return now < self.ejected_until

    def after_success(self) -> "Health":
        """Forgive the errors; ejections are forgiven by time only, or a replica that fails half of the time stays."""
        return Health(0, self.num_ejections, self.ejected_until)

    def after_error(self, now: float, rng: random.Random) -> "Health":
        """Count an error; the third in a row ejects, twice as long as the time before, and 1 to 60 s and a jitter."""
        if self.is_ejected(now):
            return self
        if self.num_consecutive_errors + 1 < MAX_CONSECUTIVE_ERRORS:
            return Health(self.num_consecutive_errors + 1, self.num_ejections, self.ejected_until)
        has_been_good = now - self.ejected_until > MAX_EJECTION_SECONDS
        num_ejections = 1 if has_been_good else self.num_ejections + 1
        seconds = min(MAX_EJECTION_SECONDS, MIN_EJECTION_SECONDS * 2.0 ** min(num_ejections - 1, 10))
        return Health(0, num_ejections, now + seconds * rng.uniform(1.0, 1.5))


class Rated(Protocol):
    """Something that may be ejected."""

    @property
    def health(self) -> Health:
        """How it has answered lately."""
        ...


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


A = TypeVar("A", bound=Rated)
R = TypeVar("R", bound=Loaded)


def leave_out_ejected(replicas: Sequence[A], now: float) -> Sequence[A]:
    """Return the replicas that are not ejected, or all when every one is: the last is never ejected."""
    return [replica for replica in replicas if not replica.health.is_ejected(now)] or replicas


def pick_replica(replicas: Sequence[R], now: float, rng: random.Random) -> R:
    """Take two of ``replicas`` at random and return the one with fewer rows in flight.

    Two random choices are nearly as even as asking all of them, without everybody running to the same idle one
    (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001). A replica that has just started
    wins only as often as its share allows, or it would get every row until it is as busy as the others.
    """
    if len(replicas) == 1:
        return replicas[0]
    winner, other = rng.sample(replicas, 2)
    if other.inflight_rows < winner.inflight_rows:
        winner, other = other, winner
    if now - winner.started_at >= SLOW_START_SECONDS:
        return winner
    return winner if rng.random() * _share(other, now) < _share(winner, now) else other


def _share(replica: Loaded, now: float) -> float:
    """Grow from the first share to 1 while the replica starts slowly."""
    return min(1.0, max(FIRST_SHARE, (now - replica.started_at) / SLOW_START_SECONDS))
