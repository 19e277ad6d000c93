import asyncio
from collections.abc import AsyncGenerator

import pytest

from expertmesh.errors import ComputeError
from expertmesh.gateway.merge import merge
from expertmesh.gateway.prompt_scores import share_scores
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice

SCORES = (Choice(5, -1.0), Choice(6, -2.0))


def delta(index: int, number: int, scores: tuple[Choice, ...] | None = None) -> TextDelta:
    return TextDelta(index, str(number), Choice(number), None, None, 3, 0, number, prompt_logprobs=scores)


async def answer(
    index: int, begins: asyncio.Event | None = None, error: Exception | None = None
) -> AsyncGenerator[TextDelta]:
    if begins:
        await begins.wait()
    if error:
        raise error
    yield delta(index, 1, SCORES if index == 0 else None)
    yield delta(index, 2)


async def told(answers: list[AsyncGenerator[TextDelta]]) -> dict[tuple[int, int], tuple[Choice, ...] | None]:
    return {(one.index, one.num_output_tokens): one.prompt_logprobs async for one in merge(share_scores(answers))}


def test_every_answer_begins_with_the_scores_that_the_first_has():
    scores = asyncio.run(told([answer(index) for index in range(3)]))
    assert scores == {(index, number): SCORES if number == 1 else None for index in range(3) for number in (1, 2)}


def test_answers_that_come_sooner_wait_for_the_first():
    async def run():
        begins = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, begins.set)
        return await told([answer(0, begins), answer(1)])

    assert asyncio.run(run())[1, 1] == SCORES


def test_an_error_of_the_first_ends_those_who_wait():
    async def run():
        begins = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, begins.set)
        await told([answer(0, begins, ComputeError("layer 3")), answer(1)])

    with pytest.raises(ComputeError):
        asyncio.run(run())


def test_a_single_answer_is_as_it_was():
    assert asyncio.run(told([answer(0)])) == {(0, 1): SCORES, (0, 2): None}
