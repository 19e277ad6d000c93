import asyncio

import numpy as np
import torch

from expertmesh.expert import stream as streams
from expertmesh.expert.budget import CallBudget
from expertmesh.expert.stream import DispatchStream
from expertmesh.wire.calls import ExpertCall, ExpertResult, encode_request

CALL = ExpertCall(0, torch.ones(4, 16), np.zeros((4, 1), np.int32), np.ones((4, 1), np.float32))


class Runner:
    """Answers at once, and notes what is not wanted any more."""

    def __init__(self):
        self.num_run = 0

    def submit(self, job):
        self.num_run += 1
        job.on_done(ExpertResult(torch.ones(4, 16), 0.0, 0.0))

    def cancel(self, job):
        return True

    def refuse(self, failure):
        raise AssertionError(failure)


async def ask_without_end(num_calls=10**6):
    for number in range(num_calls):
        yield encode_request(number, CALL)


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


async def never(message):
    await asyncio.get_running_loop().create_future()


def test_a_client_that_reads_nothing_is_read_no_further_than_its_share():
    async def main():
        runner, budget = Runner(), CallBudget(20_000)
        serving = asyncio.create_task(DispatchStream(runner, runner.submit, budget).run(ask_without_end(), never))
        await until(lambda: budget.num_held > budget.max_bytes / 2)
        await asyncio.sleep(0.01)
        held = budget.num_held
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return held, budget.num_held

    num_bytes = CALL.num_bytes + 4 * 4 * 16
    assert asyncio.run(main()) == ((10_000 // num_bytes + 1) * num_bytes, 0)


def test_one_that_has_taken_nothing_for_long_keeps_a_single_answer(monkeypatch):
    monkeypatch.setattr(streams, "STALL_SECONDS", 0.01)

    async def main():
        runner, budget = Runner(), CallBudget(20_000)
        serving = asyncio.create_task(DispatchStream(runner, runner.submit, budget).run(ask_without_end(), never))
        await until(lambda: runner.num_run > 10)
        await until(lambda: budget.num_held == CALL.num_bytes + 4 * 4 * 16)
        assert not serving.done()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return budget.num_held

    assert asyncio.run(main()) == 0
