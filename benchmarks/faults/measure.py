"""One scenario under load, and what its clients saw. Knows numbers, neither faults nor tables."""

import asyncio
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from faults.load import Load, Question, Reply
from faults.mesh import FaultyMesh, Transport
from faults.scenarios import Scenario

NUM_CLIENTS = 4
# Tokens are counted for so long before a fault, and after it.
COUNTED_SECONDS = 5.0
WARM_UP_SECONDS = 1.0

# The token ids of each answer when nothing is amiss.
Texts = dict[Question, list[int]]


@dataclass(frozen=True)
class Outcome:
    """What clients saw of a scenario.

    ``longest_wait`` and ``p99_wait`` are seconds before a piece of an answer, from the fault on; ``throughput`` is that
    of the seconds after it as a share of that of the seconds before.
    """

    scenario: Scenario
    transport: Transport
    num_requests: int
    num_differing: int
    longest_wait: float
    p99_wait: float
    throughput: float
    errors: tuple[str, ...]

    @property
    def is_as_promised(self) -> bool:
        """Whether nothing failed and nothing was different."""
        return not (self.errors or self.num_differing)


async def measure(mesh: FaultyMesh, scenario: Scenario, texts: Texts, seconds: float) -> Outcome:
    """Put a mesh under load, have a fault happen for so many seconds, and heal it.

    Each question is asked alone before. What is answered then is right, unless ``texts`` know better already.
    """
    counted = min(COUNTED_SECONDS, seconds)
    async with mesh.gateway() as endpoint:
        load = Load(endpoint)
        await load.ask_each_alone()
        for reply in load.replies:
            texts.setdefault(reply.question, reply.token_ids)
        async with load.running(NUM_CLIENTS):
            await asyncio.sleep(WARM_UP_SECONDS)
            before = await _count_tokens(load, counted)
            onset = time.perf_counter()
            await _happen(scenario, mesh, seconds)
            await mesh.heal()
    after = load.tokens_per_second(onset, onset + counted)
    return judge(scenario, mesh.transport, load.replies, texts, onset, after / before)


async def _count_tokens(load: Load, seconds: float) -> float:
    """Return the tokens per second, over more than ``seconds`` where none came in them."""
    began = time.perf_counter()
    while not (rate := load.tokens_per_second(began, time.perf_counter())) or time.perf_counter() < began + seconds:
        await asyncio.sleep(0.05)
    return rate


async def _happen(scenario: Scenario, mesh: FaultyMesh, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await scenario.happen(mesh)
            await asyncio.Event().wait()


def judge(
    scenario: Scenario,
    transport: Transport,
    replies: Sequence[Reply],
    texts: Texts,
    onset: float,
    throughput: float,
) -> Outcome:
    """Compare replies with the right ``texts``, and look for the longest of their waits since ``onset``."""
    waits = sorted(wait for reply in replies for wait in reply.waits(onset)) or [math.inf]
    return Outcome(
        scenario,
        transport,
        num_requests=len(replies),
        num_differing=sum(not reply.error and reply.token_ids != texts[reply.question] for reply in replies),
        longest_wait=waits[-1],
        p99_wait=waits[math.ceil(0.99 * len(waits)) - 1],
        throughput=throughput,
        errors=tuple(reply.error for reply in replies if reply.error),
    )
