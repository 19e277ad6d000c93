"""How many tokens prompts and answers have. Plain Python; knows no server."""

import math
import random
from dataclasses import dataclass
from typing import Protocol


class Lengths(Protocol):
    """How many tokens a prompt or an answer has."""

    @property
    def longest(self) -> int:
        """The largest number that is ever drawn."""
        ...

    def draw(self, rng: random.Random) -> int:
        """Draw one number of tokens, at least 1."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Any number from ``shortest`` to ``longest``, equally often."""

    shortest: int
    longest: int

    def draw(self, rng: random.Random) -> int:
        """See ``Lengths``."""
        return rng.randint(self.shortest, self.longest)

    def __str__(self) -> str:
        return f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest}:{self.longest}"


@dataclass(frozen=True)
class LogNormal:
    """Half below ``median``, with a long tail: the logarithm varies by ``sigma``. Cut off at three sigmas."""

    median: float
    sigma: float

    @property
    def longest(self) -> int:
        """See ``Lengths``."""
        return max(1, round(self.median * math.exp(3 * self.sigma)))

    def draw(self, rng: random.Random) -> int:
        """See ``Lengths``."""
        return min(self.longest, max(1, round(rng.lognormvariate(math.log(self.median), self.sigma))))

    def __str__(self) -> str:
        return f"lognormal:{self.median:g}:{self.sigma:g}"


def parse_lengths(text: str) -> Lengths:
    """Read ``128``, ``64:192`` (uniform) or ``lognormal:MEDIAN:SIGMA``; ValueError for anything else."""
    try:
        return _parse(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no length; N, LOW:HIGH or lognormal:MEDIAN:SIGMA of at least 1 token would be"
        ) from None


def _parse(text: str) -> Lengths:
    kind, *numbers = text.split(":")
    if kind == "lognormal":
        median, sigma = map(float, numbers)
        lengths: Lengths = LogNormal(median, sigma)
        is_valid = median >= 1 and sigma >= 0 and lengths.longest >= median
    else:
        shortest, longest = int(kind), int(numbers[-1] if numbers else kind)
        lengths = Uniform(shortest, longest)
        is_valid = len(numbers) <= 1 and 1 <= shortest <= longest
    if not is_valid:
        raise ValueError
    return lengths
