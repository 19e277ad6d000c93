"""What every engine is asked, and how its answer is timed. Plain Python: any interpreter can import it."""

import random
import statistics
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

VOCAB_SIZE = 32000
NUM_SPECIAL_IDS = 3
MAX_REPETITIONS = 3
ENOUGH_SECONDS = 10.0


@dataclass(frozen=True)
class Case:
    """``batch`` sequences with prompts of one length, continued greedily by ``new_tokens``; 0 times the prefill."""

    name: str
    batch: int
    prompt_tokens: int
    new_tokens: int

    @property
    def warmup(self) -> "Case":
        """The same, shorter."""
        return replace(self, prompt_tokens=min(self.prompt_tokens, 32), new_tokens=min(self.new_tokens, 8))

    def prompts(self) -> list[list[int]]:
        """Draw the prompts, the same in every process: a prompt per sequence, no special ids."""
        rng = random.Random(self.batch)
        return [
            [rng.randrange(NUM_SPECIAL_IDS, VOCAB_SIZE) for _ in range(self.prompt_tokens)] for _ in range(self.batch)
        ]


CASES = (
    Case("decode batch 1", batch=1, prompt_tokens=32, new_tokens=32),
    Case("decode batch 8", batch=8, prompt_tokens=32, new_tokens=32),
    Case("decode batch 32", batch=32, prompt_tokens=32, new_tokens=32),
    Case("prefill 512", batch=1, prompt_tokens=512, new_tokens=0),
)
# Besides, for those that compute so many rows in the time of one.
WIDE_CASES = (
    Case("decode batch 128", batch=128, prompt_tokens=32, new_tokens=32),
    Case("prefill 4096", batch=1, prompt_tokens=4096, new_tokens=0),
)
# Enough to see that an engine runs.
SMALL_CASES = ["decode batch 8", "prefill 512"]


class Session(Protocol):
    """The sequences of one case in an engine that computes when it is called."""

    def prefill(self, prompts: list[list[int]]) -> None:
        """Compute the prompts and choose the next token of each."""
        ...

    def step(self) -> None:
        """Compute the chosen tokens and choose the next ones."""
        ...


def rate_of(case: Case, open_session: Callable[[Case], AbstractContextManager[Session]]) -> float:
    """Return tokens per second: those of the prompt for a prefill, else those of the median step after it."""
    with open_session(case) as session:
        seconds = timed(partial(session.prefill, case.prompts()))
        if not case.new_tokens:
            return case.batch * case.prompt_tokens / seconds
        return case.batch / statistics.median(timed(session.step) for _ in range(case.new_tokens))


def timed(call: Callable[[], None]) -> float:
    """Return the seconds that a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(rate: Callable[[Case], float], names: Collection[str]) -> dict[str, float]:
    """Run the cases of these names on one engine; returns tokens per second by name."""
    return {case.name: _median_rate(rate, case) for case in (*CASES, *WIDE_CASES) if case.name in names}


def _median_rate(rate: Callable[[Case], float], case: Case) -> float:
    """Repeat a short case, so that a busy moment of the machine does not decide."""
    rate(case.warmup)
    rates: list[float] = []
    started = time.perf_counter()
    while len(rates) < MAX_REPETITIONS and (not rates or time.perf_counter() - started < ENOUGH_SECONDS):
        rates.append(rate(case))
    return statistics.median(rates)
