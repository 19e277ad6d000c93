"""An engine in a process of its own that is killed in the middle of answers: nobody may notice more than a pause."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from expertmesh.cli.gateway_processes import Commands
from expertmesh.engine.messages import EngineError, TokenDelta
from expertmesh.engine.request import Request
from expertmesh.errors import CheckpointError, InvalidRequestError
from expertmesh.gateway.background import background
from expertmesh.gateway.config import GatewayConfig
from expertmesh.gateway.link.client import EngineClient
from expertmesh.gateway.process_keeper import ProcessKeeper
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams
from expertmesh.rpc.socket_directory import socket_directory

LONG = {"max_tokens": 60, "ignore_eos": True}


@pytest.fixture(scope="module")
def directory(make_mixtral):
    return make_mixtral(vocab_size=32000, num_hidden_layers=1, max_position_embeddings=256).directory


def with_engine(directory, use: Callable[[EngineClient, ProcessKeeper], Awaitable[Any]]) -> Any:
    """Run ``use(client, supervisor)`` with a real engine process, once it serves."""

    async def run() -> Any:
        client = EngineClient()
        with socket_directory() as sockets:
            socket = str(sockets / "engine")
            config = GatewayConfig(directory, backend="cpu", threads=1, log_level="error")
            command = Commands().engine(config, socket)
            supervisor = ProcessKeeper("engine", command, client.check_loaded)
            async with background(client.run(socket), supervisor.run()) as (_, supervision):
                serving = asyncio.create_task(client.wait_serving())
                await asyncio.wait((serving, supervision), return_when=asyncio.FIRST_COMPLETED, timeout=60)
                await (supervision if supervision.done() else serving)
                return await use(client, supervisor)

    return asyncio.run(run())


class Answer:
    """What has come of a request so far."""

    def __init__(self, client: EngineClient, request: Request) -> None:
        self.deltas: list[TokenDelta] = []
        self.task = asyncio.create_task(self._take(client, request))

    async def _take(self, client: EngineClient, request: Request) -> list[Choice]:
        async for delta in client.generate(request):
            self.deltas.append(delta)
        return [delta.choice for delta in self.deltas]


def mixed_requests() -> list[Request]:
    prompt = tuple(range(1, 40))
    return [
        Request(prompt, SamplingParams(**LONG)),
        Request(prompt[:7], SamplingParams(**LONG, temperature=0.9, top_p=0.9, seed=5)),
        Request(prompt[3:], SamplingParams(**LONG, temperature=1.1, seed=6, repetition_penalty=1.2)),
        Request(prompt, SamplingParams(**LONG, logprobs=2, prompt_logprobs=1)),
        Request(prompt, SamplingParams(temperature=1.5, seed=1, max_tokens=60), grammar=("regex", "[a-d]{30,50}")),
    ]


async def kill_in_mid_stream(supervisor: ProcessKeeper, answers: Sequence[Answer], num_tokens: int) -> None:
    """Kill the engine when the unfinished ``answers`` have ``num_tokens`` more than they have now."""
    wanted = [len(answer.deltas) + num_tokens for answer in answers]
    async with asyncio.timeout(60):
        while any(
            len(answer.deltas) < count and not answer.task.done() for answer, count in zip(answers, wanted, strict=True)
        ):
            await asyncio.sleep(0.001)
    assert supervisor.pid is not None
    os.kill(supervisor.pid, signal.SIGKILL)


def answer_all(directory, num_kills: int) -> list[list[Choice]]:
    async def use(client: EngineClient, supervisor: ProcessKeeper) -> list[list[Choice]]:
        answers = [Answer(client, request) for request in mixed_requests()]
        for _ in range(num_kills):
            await kill_in_mid_stream(supervisor, answers, 4)
        assert not num_kills or not all(answer.task.done() for answer in answers)
        async with asyncio.timeout(60):
            return await asyncio.gather(*(answer.task for answer in answers))

    return with_engine(directory, use)


def test_killed_equals_undisturbed(directory):
    disturbed = answer_all(directory, num_kills=2)
    assert disturbed == answer_all(directory, num_kills=0)
    assert [len(answer) for answer in disturbed[:4]] == [60] * 4


def test_a_request_that_engines_die_of_fails_and_the_next_is_served(directory):
    async def use(client: EngineClient, supervisor: ProcessKeeper) -> None:
        [guilty] = answers = [Answer(client, Request((1, 2, 3), SamplingParams(max_tokens=200, ignore_eos=True)))]
        for _ in range(3):
            await kill_in_mid_stream(supervisor, answers, 2)
        with pytest.raises(EngineError, match="the engine died 3 times while it computed this request"):
            await guilty.task
        async with asyncio.timeout(60):
            assert len(await Answer(client, mixed_requests()[0]).task) == 60

    with_engine(directory, use)


def test_requests_that_come_while_there_is_no_engine_wait_for_it(directory):
    async def use(client: EngineClient, supervisor: ProcessKeeper) -> None:
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await client.wait_serving(False)
        before = await client.snapshot()
        assert before.engine.num_generation_tokens == 0
        async with asyncio.timeout(60):
            assert len(await Answer(client, mixed_requests()[0]).task) == 60
        with pytest.raises(InvalidRequestError, match="the prompt has no tokens"):
            await Answer(client, Request((), SamplingParams())).task

    async def use_after_asking(client: EngineClient, supervisor: ProcessKeeper) -> None:
        await client.snapshot()
        await use(client, supervisor)

    with_engine(directory, use_after_asking)


def test_a_model_that_cannot_be_loaded_is_said_in_its_own_words(tmp_path):
    async def use(client: EngineClient, supervisor: ProcessKeeper) -> None:
        raise AssertionError("it serves")

    with pytest.raises(CheckpointError, match=str(tmp_path)):
        with_engine(tmp_path, use)
