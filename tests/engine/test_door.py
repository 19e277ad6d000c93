import asyncio
from contextlib import aclosing

import pytest

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.door import Door, TokenDelta
from expertmesh.engine.observer import Interruption
from expertmesh.engine.request import FinishReason, Limits, Request
from expertmesh.engine.scheduler import Scheduler, SchedulerConfig
from expertmesh.engine.stats import QUEUE_FULL, EngineStats
from expertmesh.errors import ExpertmeshError, QueueFullError
from expertmesh.model.sampling import Choice, SamplingParams

REQUEST = Request((1, 2, 3), SamplingParams())
TOKEN = TokenDelta(Choice(7), finish_reason=None)
LAST = TokenDelta(Choice(2), FinishReason.STOP)


class Hall:
    """A door with the queue and the counts behind it."""

    def __init__(self, max_num_waiting: int = 8) -> None:
        self.stats = EngineStats()
        config = SchedulerConfig(max_num_waiting=max_num_waiting)
        self.scheduler = Scheduler(config, BlockPool(8, 16), self.stats)
        self.door = Door(self.scheduler, Limits(max_model_len=64, vocab_size=32), self.stats)

    def count(self) -> dict[str, int]:
        """Say how many sequences ended how."""
        assert not self.scheduler.has_work
        return {outcome.value: count for outcome, count in self.stats.num_finished.items() if count}


async def take_in(hall: Hall, *deltas: TokenDelta | ExpertmeshError) -> None:
    """Wait for a request, schedule it, and give it ``deltas``."""
    await hall.door.wait_for_work()
    [chunk] = hall.scheduler.schedule()
    for delta in deltas:
        if isinstance(delta, ExpertmeshError):
            hall.door.fail(chunk.sequence, delta)
        else:
            hall.door.hand_out(chunk.sequence, delta)


def test_tokens_come_out_until_the_last_one():
    async def run() -> list[int]:
        taking = asyncio.create_task(take_in(hall, TOKEN, TOKEN, LAST))
        ids = [delta.choice.token_id async for delta in hall.door.generate(REQUEST)]
        await taking
        return ids

    hall = Hall()
    assert asyncio.run(run()) == [7, 7, 2]
    assert hall.count() == {"stop": 1}


def test_who_leaves_is_cancelled_and_awaited_no_more():
    async def run() -> None:
        taking = asyncio.create_task(take_in(hall, TOKEN))
        async with aclosing(hall.door.generate(REQUEST)) as deltas:
            await anext(deltas)
        await taking

    hall = Hall()
    asyncio.run(run())
    assert hall.count() == {Interruption.CANCELLED.value: 1}


def test_who_has_enough_says_why_it_ends():
    async def run() -> None:
        taking = asyncio.create_task(take_in(hall, TOKEN))
        deltas = hall.door.generate(REQUEST)
        await anext(deltas)
        with pytest.raises(StopAsyncIteration):
            await deltas.asend(FinishReason.STOP_SEQUENCE)
        await taking

    hall = Hall()
    asyncio.run(run())
    assert hall.count() == {"stop_sequence": 1}


def test_an_error_ends_the_stream_once():
    async def run() -> None:
        taking = asyncio.create_task(take_in(hall, TOKEN, ExpertmeshError("a step failed"), ExpertmeshError("again")))
        deltas = hall.door.generate(REQUEST)
        await anext(deltas)
        with pytest.raises(ExpertmeshError, match="a step failed"):
            await anext(deltas)
        await taking

    hall = Hall()
    asyncio.run(run())
    assert hall.count() == {Interruption.FAILED.value: 1}


def test_a_full_queue_refuses_and_counts_it():
    async def run() -> None:
        with pytest.raises(QueueFullError):
            await anext(hall.door.generate(REQUEST))

    hall = Hall(max_num_waiting=0)
    asyncio.run(run())
    assert hall.count() == {}
    assert hall.stats.num_rejected[QUEUE_FULL] == 1
