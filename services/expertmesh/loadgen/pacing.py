"""Sends the requests of a load at their time. Knows order and clocks, not what is asked."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from itertools import takewhile

from expertmesh.loadgen.client import Answer, Server
from expertmesh.loadgen.load import Load, Question, arrivals, questions

Ask = Callable[[Question], Awaitable[Answer]]
Send = Callable[[Question], Coroutine[None, None, None]]


@dataclass(frozen=True)
class Run:
    """What a server answered to a load, how long all of it took, and how many requests were given up at its end."""

    name: str
    answers: tuple[Answer, ...]
    seconds: float
    num_unfinished: int = 0


class Recorder:
    """Keeps the answers of a run as they come, so that one that is interrupted has them."""

    def __init__(self, report: Callable[[int], None] = lambda num_answers: None) -> None:
        """``report`` is called with the number of answers after each."""
        self._report = report
        self._num_answers = 0
        self._answers: list[Answer | None] = []
        self._started: float | None = None
        self._seconds: float | None = None

    @property
    def has_started(self) -> bool:
        """Whether the run is beyond its warm-up."""
        return self._started is not None

    async def record(self, load: Load, ask: Ask) -> None:
        """Put the load on whoever answers."""

        async def send(question: Question) -> None:
            index = len(self._answers)
            self._answers.append(None)
            self._answers[index] = await ask(question)
            self._num_answers += 1
            self._report(self._num_answers)

        asked = questions(load) if load.num_requests is None else list(questions(load))  # drawn before the clock runs
        self._started = time.perf_counter()
        try:
            await pace(load, asked, send)
        finally:
            self._seconds = time.perf_counter() - self._started

    def run(self, name: str) -> Run:
        """Return what came, in the order of the questions."""
        answers = tuple(answer for answer in self._answers if answer is not None)
        return Run(name, answers, self._seconds or 0.0, len(self._answers) - len(answers))


async def measure(server: Server, load: Load, num_warmup: int, recorder: Recorder) -> None:
    """Warm the server up, then put the load on it."""
    if num_warmup:
        await Recorder().record(load.warmup(num_warmup), server.ask)
    await recorder.record(load, server.ask)


async def pace(load: Load, asked: Iterable[Question], send: Send) -> None:
    """Send questions in the rhythm of a load, as long as it takes at most."""
    if load.num_clients:
        deadline = time.perf_counter() + load.max_seconds
        in_time = takewhile(lambda _: time.perf_counter() < deadline, asked)
        await in_closed_loop(in_time, load.num_clients, send)
    else:
        assert load.rate
        times = takewhile(lambda due: due < load.max_seconds, arrivals(load.rate, load.seed))
        await at_times(asked, times, send)


async def in_closed_loop(asked: Iterable[Question], num_clients: int, send: Send) -> None:
    """Let each client take the next question when it has its answer."""
    waiting = iter(asked)

    async def client() -> None:
        for question in waiting:
            await send(question)

    async with asyncio.TaskGroup() as clients:
        for _ in range(num_clients):
            clients.create_task(client())


async def at_times(asked: Iterable[Question], times: Iterable[float], send: Send) -> None:
    """Send each question at its time, in seconds from now, whether or not earlier ones are answered."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as sending:
        for question, due in zip(asked, times, strict=False):
            # Who is late sends at once: a turn of the event loop would make all the others later.
            if (wait := due - (time.perf_counter() - started)) > 0:
                await asyncio.sleep(wait)
            sending.create_task(send(question))
