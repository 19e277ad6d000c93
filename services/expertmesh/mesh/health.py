"""How a replica has answered lately, and whether it is left alone for that. Knows errors, not what they were.

Time is an argument everywhere, in seconds of a clock that only goes forward.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

MAX_CONSECUTIVE_ERRORS = 3
MIN_EJECTION_SECONDS = 1.0
MAX_EJECTION_SECONDS = 60.0


@dataclass(frozen=True)
class Health:
    """Errors without a success between them, and how often they ejected the replica.

    ``ejected_until`` is the end of the last ejection, 0 when there was none. ``good_since`` is when it answered for the
    first time after the last error, inf when it has not.
    """

    num_consecutive_errors: int = 0
    num_ejections: int = 0
    ejected_until: float = 0.0
    good_since: float = math.inf

    @property
    def is_proven(self) -> bool:
        """Whether it has answered since its last error."""
        return self.good_since < math.inf

    def is_ejected(self, now: float) -> bool:
        """Whether the replica is being left alone."""
        return now < self.ejected_until

    def after_success(self, now: float) -> "Health":
        """Forgive the errors; ejections stay, or a replica that fails half of the time would."""
        return Health(0, self.num_ejections, self.ejected_until, min(self.good_since, now))

    def after_error(self, now: float, rng: random.Random, is_grave: bool = False) -> "Health":
        """Count an error; the third in a row ejects, or a grave one, or one after an ejection with no success.

        Each ejection takes twice as long as the one before, 1 to 60 s and a jitter, however long the errors took: only
        a replica that has been good for as long as the longest ejection begins anew.
        """
        if self.is_ejected(now):
            return self
        num_ejections = 0 if now - self.good_since > MAX_EJECTION_SECONDS else self.num_ejections
        num_errors = self.num_consecutive_errors + 1
        is_on_probation = num_ejections > 0 and not self.is_proven
        if not (is_grave or is_on_probation or num_errors >= MAX_CONSECUTIVE_ERRORS):
            return Health(num_errors, num_ejections, self.ejected_until)
        seconds = min(MAX_EJECTION_SECONDS, MIN_EJECTION_SECONDS * 2.0 ** min(num_ejections, 10))
        return Health(0, num_ejections + 1, now + seconds * rng.uniform(1.0, 1.5))


class Rated(Protocol):
    """Something that may be ejected."""

    @property
    def health(self) -> Health:
        """How it has answered lately."""
        ...


RatedT = TypeVar("RatedT", bound=Rated)


def leave_out_ejected(replicas: Sequence[RatedT], now: float) -> Sequence[RatedT]:
    """Return the replicas that are not ejected, or all when every one is: the last is never ejected."""
    return [replica for replica in replicas if not replica.health.is_ejected(now)] or replicas
