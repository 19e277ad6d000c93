"""The text of an answer as it becomes certain, and the stop string that ends it. Knows tokens, not how they come."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from expertmesh.engine.messages import TokenDelta
from expertmesh.engine.request import FinishReason
from expertmesh.model.choice import Choice
from expertmesh.text.call_parser import CallParser, CallPiece
from expertmesh.text.detokenizer import Detokenizer
from expertmesh.text.stop import StopMatcher


@dataclass(frozen=True)
class TextDelta:
    """One more token of answer ``index``, and the text that became certain with it.

    Text may lag behind its token: half a character, or what may be the beginning of a stop string, waits for the next.
    ``calls`` are what is new in its calls of functions, which stand behind all text; ``num_calls`` have begun so far.
    ``prompt_logprobs`` (for prompt tokens 1, 2, ...) come with the first piece of an answer, ``finish_reason`` and
    ``stop`` (the stop string that was met) with the last. Counts are those so far; cached prompt tokens were not
    computed anew. ``routed_experts`` [L][A] are the experts of the row that produced the token. ``dropped_experts`` are
    pairs: an expert, and how many choices of it were done without since the last token.
    """

    index: int
    text: str
    token: Choice
    finish_reason: FinishReason | None
    stop: str | None
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    prompt_logprobs: tuple[Choice, ...] | None = None
    routed_experts: tuple[tuple[int, ...], ...] | None = None
    calls: tuple[CallPiece, ...] = ()
    num_calls: int = 0
    dropped_experts: tuple[tuple[int, int], ...] = ()


class TextStream:
    """The text of one sequence as it becomes certain, and its calls where there is a parser of them.

    A stop string that is complete with one of the first tokens, before there are ``min_tokens``, ends nothing. The stop
    string or token that ends the text is part of it where that ``includes_stop``.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        parser: CallParser | None = None,
        min_tokens: int = 0,
        includes_stop: bool = False,
    ) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops, includes_stop)
        self._parser = parser
        self._num_missing = min_tokens
        self._includes_stop = includes_stop

    @property
    def stop(self) -> str | None:
        """The stop string that was met."""
        return self._matcher.matched

    @property
    def num_calls(self) -> int:
        """Calls that have begun."""
        return self._parser.num_calls if self._parser else 0

    def push(self, token: TokenDelta) -> tuple[str, tuple[CallPiece, ...]]:
        """Take the next token and return the text that is certain with it, and what is new in calls."""
        text = self._push(token)
        if self._parser is None:
            return text, ()
        content, calls = self._parser.push(text)
        if token.finish_reason is not None or self.stop is not None:
            content += self._parser.flush()
        return content, calls

    def _push(self, token: TokenDelta) -> str:
        self._num_missing -= 1
        text = "" if self._is_silent(token) else self._detokenizer.push([token.choice.token_id])
        if token.finish_reason is not None:
            text += self._detokenizer.flush()
        text = self._matcher.push(text, may_stop=self._num_missing <= 0)
        if token.finish_reason is not None and self.stop is None:
            text += self._matcher.flush()
        return text

    def _is_silent(self, token: TokenDelta) -> bool:
        """Tell whether a token ends the text and is no part of it."""
        return token.finish_reason in (FinishReason.STOP, FinishReason.STOP_SEQUENCE) and not self._includes_stop


async def stream_text(
    tokens: AsyncGenerator[TokenDelta, FinishReason | None], text: TextStream, index: int, num_prompt_tokens: int
) -> AsyncGenerator[TextDelta]:
    """Yield the text of answer ``index`` until it ends by itself or with a stop string, which ends ``tokens`` too."""
    num_output_tokens = 0
    async with aclosing(tokens):
        async for token in tokens:
            num_output_tokens += 1
            piece, calls = text.push(token)
            if text.stop:
                with suppress(StopAsyncIteration):
                    await tokens.asend(FinishReason.STOP_SEQUENCE)
            yield TextDelta(
                index=index,
                text=piece,
                token=token.choice,
                finish_reason=FinishReason.STOP_SEQUENCE if text.stop else token.finish_reason,
                stop=text.stop,
                num_prompt_tokens=num_prompt_tokens,
                num_cached_tokens=token.num_cached_tokens,
                num_output_tokens=num_output_tokens,
                prompt_logprobs=token.prompt_logprobs,
                routed_experts=token.routed_experts,
                calls=calls,
                num_calls=text.num_calls,
                dropped_experts=token.dropped_experts,
            )
            if text.stop:
                return
