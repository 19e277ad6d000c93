"""The prompts of a text completion, and what is written about each. Knows pieces of text, not their stream."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.long_json import mapped
from expertmesh.gateway.http.openai import replies
from expertmesh.gateway.http.openai.common import (
    FINISH_REASONS,
    describe_prompt,
    dropped_experts,
    routed_experts,
    token_text,
)
from expertmesh.gateway.http.openai.requests import CompletionRequest
from expertmesh.gateway.http.openai.sampling import truncated
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice


@dataclass(frozen=True)
class Prompt:
    """A prompt of a request: its ids, its text where the client sent text, and the text of each id for an echo."""

    ids: list[int]
    text: str | None
    pieces: Sequence[str] = ()


@dataclass(frozen=True)
class _Piece:
    """A token, the text that became certain with it, and its probability where that was asked for."""

    token_id: int
    text: str
    choice: Choice | None


async def encode_prompts(body: CompletionRequest, generator: TextGenerator) -> list[Prompt]:
    """Return the prompts of a request in order."""
    prompts = [_truncate(await _encode(prompt, body, generator), body) for prompt in body.prompts()]
    return await asyncio.to_thread(_cut, prompts, generator) if body.echo else prompts


def _cut(prompts: Sequence[Prompt], generator: TextGenerator) -> list[Prompt]:
    return [replace(prompt, pieces=generator.pieces(prompt.ids)) for prompt in prompts]


async def _encode(prompt: str | list[int], body: CompletionRequest, generator: TextGenerator) -> Prompt:
    if not isinstance(prompt, str):
        return Prompt(prompt, None)
    encode = generator.encode_prompt if body.add_special_tokens else generator.encode_text
    return Prompt(await encode(prompt), prompt)


def _truncate(prompt: Prompt, body: CompletionRequest) -> Prompt:
    ids = truncated(prompt.ids, body)
    return prompt if len(ids) == len(prompt.ids) else Prompt(ids, None)


class PromptWriter:
    """Writes choices about one prompt from the deltas of its answers; ``first_index`` is that of its first choice."""

    def __init__(self, generator: TextGenerator, prompt: Prompt, first_index: int, body: CompletionRequest) -> None:
        self._generator = generator
        self._prompt = prompt
        self._first_index = first_index
        self._wants_echo = bool(body.echo)
        self._wants_logprobs = body.logprobs is not None
        self._wants_prompt_logprobs = body.prompt_logprobs is not None
        self._wants_ids = bool(body.return_token_ids)
        self._lengths: dict[int, int] = {}

    def write(self, deltas: Sequence[TextDelta]) -> replies.CompletionChoice:
        """Describe the next deltas of one answer, behind the prompt if they are the first and it is to be echoed."""
        first, last = deltas[0], deltas[-1]
        is_first = first.index not in self._lengths
        echoes = self._wants_echo and is_first
        echo = self._echo(first) if echoes else []
        answered = [delta for delta in deltas if delta.num_output_tokens]  # without one, only the prompt was wanted
        pieces = [*echo, *(_Piece(delta.token.token_id, delta.text, delta.token) for delta in answered)]
        return replies.CompletionChoice(
            index=self._first_index + first.index,
            text=(self._echoed_text(echo) if echoes else "") + "".join(delta.text for delta in deltas),
            logprobs=self._logprobs(pieces, first.index),
            finish_reason=FINISH_REASONS[last.finish_reason],
            prompt_logprobs=self._prompt_logprobs(first),
            routed_experts=routed_experts(answered),
            dropped_experts=dropped_experts(answered),
            token_ids=[delta.token.token_id for delta in answered] if self._wants_ids else None,
            prompt_token_ids=self._prompt.ids if self._wants_ids and is_first else None,
        )

    def _echo(self, delta: TextDelta) -> list[_Piece]:
        choices = (None, *(delta.prompt_logprobs or [None] * (len(self._prompt.ids) - 1)))
        return [_Piece(*piece) for piece in zip(self._prompt.ids, self._prompt.pieces, choices, strict=True)]

    def _echoed_text(self, echo: list[_Piece]) -> str:
        return "".join(piece.text for piece in echo) if self._prompt.text is None else self._prompt.text

    def _prompt_logprobs(self, delta: TextDelta) -> Sequence[replies.TokenLogprob | None] | None:
        return describe_prompt(self._generator, delta.prompt_logprobs) if self._wants_prompt_logprobs else None

    def _logprobs(self, pieces: Sequence[_Piece], index: int) -> replies.CompletionLogprobs | None:
        offsets = []
        length = self._lengths.get(index, 0)
        for piece in pieces:
            offsets.append(length)
            length += len(piece.text)
        self._lengths[index] = length
        if not self._wants_logprobs:
            return None
        return replies.CompletionLogprobs(
            tokens=mapped(lambda piece: token_text(self._generator, piece.token_id), pieces),
            token_logprobs=[piece.choice.logprob if piece.choice else None for piece in pieces],
            top_logprobs=mapped(lambda piece: self._top(piece.choice) if piece.choice else None, pieces),
            text_offset=offsets,
        )

    def _top(self, choice: Choice) -> dict[str, float]:
        """Return the most probable tokens and the chosen one; of several with one text, the most probable."""
        top: dict[str, float] = {}
        for token_id, logprob in (*choice.top_logprobs, (choice.token_id, choice.logprob or 0.0)):
            top.setdefault(token_text(self._generator, token_id), logprob)
        return top
