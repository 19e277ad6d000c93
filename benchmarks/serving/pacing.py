"""Sends the requests of a load at their time. Knows order and clocks, not what is asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from serving.client import Answer, Target, ask, connected, first_model
from serving.load import Load, Pieces, Question, arrivals, questions

Ask = Callable[[Question], Awaitable[Answer]]


@dataclass(frozen=True)
class Run:
    """What a server answered to a load, and how long all of it took."""

    name: str
    answers: tuple[Answer, ...]
    seconds: float


async def run(target: Target, load: Load, pieces: Pieces, num_warmup: int) -> Run:
    """Warm the server up, then put the load on it."""
    async with connected(target) as client:
        model = await first_model(client)

        async def ask_one(question: Question) -> Answer:
            return await ask(client, question, model, target.fields)

        if num_warmup:
            await send(load.warmup(num_warmup), pieces, ask_one)
        started = time.perf_counter()
        answers = await send(load, pieces, ask_one)
        return Run(target.name, tuple(answers), time.perf_counter() - started)


async def send(load: Load, pieces: Pieces, ask_one: Ask) -> list[Answer]:
    """Ask all questions of a load in its rhythm; returns the answers in the order of the questions."""
    asked = questions(load, pieces)
    if load.num_clients:
        return await in_closed_loop(asked, load.num_clients, ask_one)
    assert load.rate
    return await at_times(asked, arrivals(load.rate, len(asked), load.seed), ask_one)


async def in_closed_loop(asked: Sequence[Question], num_clients: int, ask_one: Ask) -> list[Answer]:
    """Let each client take the next question when it has its answer."""
    waiting = iter(enumerate(asked))
    answers: dict[int, Answer] = {}

    async def client() -> None:
        for index, question in waiting:
            answers[index] = await ask_one(question)

    await asyncio.gather(*(client() for _ in range(num_clients)))
    return [answers[index] for index in range(len(asked))]


async def at_times(asked: Sequence[Question], seconds: Sequence[float], ask_one: Ask) -> list[Answer]:
    """Ask each question at its time, whether or not earlier ones are answered."""
    started = time.perf_counter()

    async def later(question: Question, due: float) -> Answer:
        await asyncio.sleep(due - (time.perf_counter() - started))
        return await ask_one(question)

    return await asyncio.gather(*(later(question, due) for question, due in zip(asked, seconds, strict=True)))
