"""Scoring a prompt once for all answers to it. Knows streams of deltas, not who computes them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice

_Scores = asyncio.Future[tuple[Choice, ...] | None]


def share_scores(answers: Sequence[AsyncGenerator[TextDelta]]) -> list[AsyncGenerator[TextDelta]]:
    """Have the log probabilities of the prompt, which come with the first of ``answers``, come with each of them.

    The others wait for them; when the first one fails, it is up to the caller to close the others.
    """
    first, *others = answers
    scores: _Scores = asyncio.get_running_loop().create_future()
    return [_tell(first, scores), *(_hear(answer, scores) for answer in others)]


async def _tell(answer: AsyncGenerator[TextDelta], scores: _Scores) -> AsyncGenerator[TextDelta]:
    async with aclosing(answer):
        async for delta in answer:
            if not scores.done():
                scores.set_result(delta.prompt_logprobs)
            yield delta


async def _hear(answer: AsyncGenerator[TextDelta], scores: _Scores) -> AsyncGenerator[TextDelta]:
    is_first = True
    async with aclosing(answer):
        async for delta in answer:
            yield replace(delta, prompt_logprobs=await scores) if is_first else delta
            is_first = False
