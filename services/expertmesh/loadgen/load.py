"""What is asked, and when: requests and arrivals, drawn from a seed. Plain Python; knows no server."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from expertmesh.loadgen.lengths import Lengths
from expertmesh.loadgen.prompts import Prompt, Prompts


@dataclass(frozen=True)
class Question:
    """One request: continue ``prompt`` by at most ``num_tokens``."""

    prompt: Prompt
    num_tokens: int


@dataclass(frozen=True)
class Load:
    """Requests of a run. Either ``num_clients`` who each wait for their answer, or ``rate`` Poisson arrivals a second.

    Nothing is sent after ``num_requests``, nor after ``max_seconds``; what is sent by then is waited for. ``first`` is
    the number of the first question.
    """

    prompts: Prompts
    output_tokens: Lengths
    num_requests: int | None = None
    num_clients: int | None = None
    rate: float | None = None
    max_seconds: float = math.inf
    seed: int = 0
    first: int = 0

    def warmup(self, num_requests: int) -> "Load":
        """A closed loop of other questions; random ones share their prefix with these."""
        return replace(
            self,
            num_requests=num_requests,
            num_clients=self.num_clients or num_requests,
            rate=None,
            max_seconds=math.inf,
            seed=self.seed + 1,
            first=-num_requests,
        )

    def __str__(self) -> str:
        return f"{self.num_clients} clients" if self.num_clients else f"{self.rate:g} requests/s"


def questions(load: Load) -> Iterator[Question]:
    """Draw the requests of a run; equal loads give equal requests."""
    rng = random.Random(load.seed)
    numbers = count(load.first) if load.num_requests is None else range(load.first, load.first + load.num_requests)
    for number in numbers:
        yield Question(load.prompts.make(rng, number), load.output_tokens.draw(rng))


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Draw the seconds from the start at which requests arrive: a Poisson process of ``rate`` a second."""
    rng = random.Random(seed)
    now = 0.0
    while True:
        now += rng.expovariate(rate)
        yield now
