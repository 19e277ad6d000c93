"""How long to leave a server alone that did not answer. Knows durations, not what failed."""

import random
from dataclasses import dataclass

MIN_SECONDS = 0.5
MAX_SECONDS = 30.0
FACTOR = 4.0
JITTER = 0.5


@dataclass(frozen=True)
class Backoff:
    """The pauses between attempts: 0.5, 2, 8 and then 30 s, each lengthened by up to half of itself at random.

    The jitter only adds, so that somebody who waits longest makes at most one attempt in 30 s; with few short pauses,
    the first ten minutes see no more than one in 30 s either, on average.
    """

    num_failures: int = 0

    def after(self, lasted_seconds: float) -> "Backoff":
        """Count a failure of an attempt that went well for ``lasted_seconds``; a long one forgives those before."""
        return Backoff(1 if lasted_seconds > MAX_SECONDS else self.num_failures + 1)

    def seconds(self, rng: random.Random) -> float:
        """Draw the pause that follows the failures so far; 0 without any."""
        if not self.num_failures:
            return 0.0
        # The exponent is bounded because a float is.
        pause = min(MAX_SECONDS, MIN_SECONDS * FACTOR ** min(self.num_failures - 1, 10))
        return pause * (1 + JITTER * rng.random())
