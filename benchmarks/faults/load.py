"""Clients that stream answers one after the other, and what came of each. Knows texts and times, no faults."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from expertmesh.client import AsyncClient, RetryPolicy, Sampling
from expertmesh.errors import GatewayError

# Longer than the gateway itself waits for a replica.
TIMEOUT_SECONDS = 150.0
NUM_TOKENS = 48
NUM_QUESTIONS = 8


class Question(NamedTuple):
    """A prompt, and how its answer is sampled."""

    prompt: str
    sampling: Sampling


def _question(number: int) -> Question:
    temperature = 0.8 if number % 2 else 0.0
    sampling = Sampling(NUM_TOKENS, temperature=temperature, seed=number, ignore_eos=True)
    return Question(f"What is {300 + 17 * number} {'+-'[number // 2 % 2]} {13 * number}?", sampling)


QUESTIONS = tuple(map(_question, range(NUM_QUESTIONS)))


class Arrival(NamedTuple):
    """When a piece of an answer came, by ``time.perf_counter``, and how many tokens it had."""

    when: float
    num_tokens: int


@dataclass
class Reply:
    """What came of a question that was sent then; ``error`` says why not all of it did."""

    question: Question
    sent: float
    token_ids: list[int] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    error: str | None = None

    def waits(self, since: float) -> list[float]:
        """Seconds before each piece that came after ``since``: from the one before, or from the question."""
        times = [self.sent, *(arrival.when for arrival in self.arrivals)]
        return [after - before for before, after in zip(times, times[1:], strict=False) if after > since]


class Load:
    """Clients of the gateway at ``endpoint``, and the ``replies`` that they got."""

    def __init__(self, endpoint: str) -> None:
        self.replies: list[Reply] = []
        self._endpoint = endpoint
        self._is_over = False
        self._numbers = count()

    async def ask_each_alone(self) -> None:
        """Ask one question after the other."""
        async with self._client() as client:
            for question in QUESTIONS:
                await self._ask(client, question)

    @asynccontextmanager
    async def running(self, num_clients: int) -> AsyncIterator[None]:
        """Have so many clients ask inside the ``async with``; at its end, they wait for the answers that they lack."""
        async with self._client() as client, asyncio.TaskGroup() as clients:
            for _ in range(num_clients):
                clients.create_task(self._ask_on(client))
            try:
                yield
            finally:
                self._is_over = True

    def tokens_per_second(self, since: float, until: float) -> float:
        """Tokens that came in a span of time."""
        arrivals = (arrival for reply in self.replies for arrival in reply.arrivals)
        return sum(arrival.num_tokens for arrival in arrivals if since < arrival.when <= until) / (until - since)

    def _client(self) -> AsyncClient:
        # One that asks again by itself would hide what failed.
        return AsyncClient(self._endpoint, timeout_seconds=TIMEOUT_SECONDS, retries=RetryPolicy(1))

    async def _ask_on(self, client: AsyncClient) -> None:
        while not self._is_over:
            await self._ask(client, QUESTIONS[next(self._numbers) % NUM_QUESTIONS])

    async def _ask(self, client: AsyncClient, question: Question) -> None:
        reply = Reply(question, time.perf_counter())
        self.replies.append(reply)
        try:
            async for piece in client.generate(*question):
                reply.token_ids += piece.token_ids
                reply.arrivals.append(Arrival(time.perf_counter(), len(piece.token_ids)))
        except GatewayError as error:
            reply.error = str(error)
