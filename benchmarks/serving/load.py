"""What is asked, and when: lengths, prompts and arrivals, drawn from a seed. Plain Python; knows no server."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

Prompt = list[int] | str


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


def parse_lengths(text: str) -> Lengths:
    """Read ``128``, ``64:192`` (uniform) or ``lognormal:MEDIAN:SIGMA``; ValueError for anything else."""
    kind, *numbers = text.split(":")
    if kind == "lognormal":
        median, sigma = map(float, numbers)
        lengths: Lengths = LogNormal(median, sigma)
        is_valid = median >= 1 and sigma >= 0
    else:
        shortest, longest = int(kind), int(numbers[-1] if numbers else kind)
        lengths = Uniform(shortest, longest)
        is_valid = len(numbers) <= 1 and 1 <= shortest <= longest
    if not is_valid:
        raise ValueError(f"{text!r} is no length; N, LOW:HIGH or lognormal:MEDIAN:SIGMA of at least 1 token would be")
    return lengths


class Pieces(Protocol):
    """What prompts are made of: things that are one token each."""

    def draw(self, rng: random.Random, count: int) -> Sequence[int | str]:
        """Draw ``count`` pieces."""
        ...

    def join(self, pieces: Sequence[int | str]) -> Prompt:
        """Make a prompt of pieces."""
        ...


@dataclass(frozen=True)
class TokenIds:
    """Ids from ``first`` up to but without ``end``: a prompt has exactly as many tokens as pieces."""

    first: int
    end: int

    def draw(self, rng: random.Random, count: int) -> Sequence[int | str]:
        """See ``Pieces``."""
        return [rng.randrange(self.first, self.end) for _ in range(count)]

    def join(self, pieces: Sequence[int | str]) -> Prompt:
        """See ``Pieces``."""
        return [int(piece) for piece in pieces]


@dataclass(frozen=True)
class Words:
    """Words that are one token each behind a space. A server adds its beginning-of-sequence token, if it has one."""

    words: tuple[str, ...]

    def draw(self, rng: random.Random, count: int) -> Sequence[int | str]:
        """See ``Pieces``."""
        return rng.choices(self.words, k=count)

    def join(self, pieces: Sequence[int | str]) -> Prompt:
        """See ``Pieces``."""
        return " ".join(map(str, pieces))


@dataclass(frozen=True)
class Question:
    """One request: continue ``prompt`` by ``num_tokens``."""

    prompt: Prompt
    num_tokens: int


@dataclass(frozen=True)
class Load:
    """Requests of a run. Either ``num_clients`` who each wait for their answer, or ``rate`` Poisson arrivals a second.

    The first ``shared_prefix`` tokens of every prompt are the same; ``prompt_tokens`` come on top of them.
    """

    num_requests: int
    prompt_tokens: Lengths
    output_tokens: Lengths
    shared_prefix: int = 0
    num_clients: int | None = None
    rate: float | None = None
    seed: int = 0

    def warmup(self, num_requests: int) -> "Load":
        """The same with other prompts, but for the shared prefix."""
        return replace(self, num_requests=num_requests, seed=self.seed + 1)

    @property
    def longest(self) -> int:
        """The most tokens that a prompt and its answer have together."""
        return self.shared_prefix + self.prompt_tokens.longest + self.output_tokens.longest

    def __str__(self) -> str:
        return f"{self.num_clients} clients" if self.num_clients else f"{self.rate:g} requests/s"


def questions(load: Load, pieces: Pieces) -> list[Question]:
    """Draw all requests of a run; equal loads give equal requests."""
    prefix = pieces.draw(random.Random(load.shared_prefix), load.shared_prefix)
    rng = random.Random(load.seed)
    return [
        Question(pieces.join([*prefix, *pieces.draw(rng, load.prompt_tokens.draw(rng))]), load.output_tokens.draw(rng))
        for _ in range(load.num_requests)
    ]


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Draw the seconds from the start at which requests arrive: a Poisson process of ``rate`` a second."""
    rng = random.Random(seed)
    seconds, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        seconds.append(now)
    return seconds
