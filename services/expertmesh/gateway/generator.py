"""Text in, text out: tokenizer and detokenizer around the engine. Knows text, not transport."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from expertmesh.gateway.engine import Engine
from expertmesh.gateway.request import FinishReason, Request
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.template import Message, encode_chat, encode_prompt
from expertmesh.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextDelta:
    """A piece of an answer; counts are those so far, ``finish_reason`` comes with the last piece."""

    text: str
    token_id: int
    finish_reason: FinishReason | None
    num_prompt_tokens: int
    num_output_tokens: int


class TextGenerator:
    """Answers prompts and conversations with a stream of text."""

    def __init__(self, tokenizer: Tokenizer, engine: Engine) -> None:
        self._tokenizer = tokenizer
        self._engine = engine

    async def encode_prompt(self, text: str) -> list[int]:
        """Ids of raw text, begin-of-sequence id first. Runs in a thread: prompts may be long."""
        return await asyncio.to_thread(encode_prompt, self._tokenizer, text)

    async def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation in the [INST] template. Runs in a thread: conversations may be long."""
        return await asyncio.to_thread(encode_chat, self._tokenizer, messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of ids."""
        return self._tokenizer.decode(list(token_ids))

    async def generate(self, prompt_ids: Sequence[int], sampling: SamplingParams) -> AsyncGenerator[TextDelta]:
        """Continue a prompt; errors are those of ``Engine.generate``."""
        detokenizer = Detokenizer(self._tokenizer)
        num_output_tokens = 0
        async with aclosing(self._engine.generate(Request(tuple(prompt_ids), sampling))) as deltas:
            async for delta in deltas:
                text = detokenizer.push([delta.token_id])
                if delta.finish_reason is not None:
                    text += detokenizer.flush()
                num_output_tokens += 1
                yield TextDelta(text, delta.token_id, delta.finish_reason, len(prompt_ids), num_output_tokens)
