"""What the replies of chat and text completions have in common. Knows deltas of answers, not endpoints."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict
from uuid import uuid4

from expertmesh.engine.request import FinishReason
from expertmesh.gateway.generator import TextGenerator
from expertmesh.gateway.http.long_json import Mapped, mapped
from expertmesh.gateway.http.openai import replies
from expertmesh.gateway.http.openai.fields import StreamOptions
from expertmesh.gateway.text_stream import TextDelta
from expertmesh.model.choice import Choice
from expertmesh.wire.model_info import ModelInfo

# The last event of a stream.
DONE = "[DONE]"

FINISH_REASONS: Mapping[FinishReason | None, replies.FinishReason | None] = {
    None: None,
    FinishReason.STOP: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.LENGTH: "length",
}


def finish_reason(delta: TextDelta) -> replies.FinishReason | None:
    """Return why an answer to a conversation ended, if it has."""
    if delta.finish_reason is FinishReason.STOP and delta.num_calls:
        return "tool_calls"
    return FINISH_REASONS[delta.finish_reason]


_INVALID = {"model": replies.ErrorReply}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {**_INVALID, "description": "A field is wrong or not supported, or the prompt too long for the model."},
    401: {**_INVALID, "description": "The gateway wants an API key."},
    403: {**_INVALID, "description": "The API key is not good for this."},
    404: {**_INVALID, "description": "Another model is served here."},
    408: {**_INVALID, "description": "The body did not arrive in time."},
    413: {**_INVALID, "description": "The body is too large."},
    429: {**_INVALID, "description": "Too many requests wait already; see Retry-After."},
    500: {**_INVALID, "description": "The gateway failed; its log says more."},
    503: {**_INVALID, "description": "No replica of an expert answered in time; see Retry-After."},
    "default": {**_INVALID, "description": "Any other error."},
}


@dataclass(frozen=True)
class StreamUsage:
    """Which counts a stream holds: in the end where that ``is_wanted``, in every chunk where it ``is_continuous``."""

    is_wanted: bool
    is_continuous: bool

    @classmethod
    def of(cls, options: StreamOptions | None) -> Self:
        """Read what a request says."""
        is_wanted = bool(options and options.include_usage)
        return cls(is_wanted, is_wanted and bool(options and options.continuous_usage_stats))

    def so_far(self, prompts: Iterable[Iterable[TextDelta]]) -> replies.Usage | None:
        """Count what a chunk in the middle holds, as ``count_usage`` does."""
        return count_usage(prompts) if self.is_continuous else None


class Header(TypedDict):
    """The fields of ``replies.Reply``."""

    id: str
    created: int
    model: str
    system_fingerprint: str


def make_header(prefix: str, model: ModelInfo) -> Header:
    """Make what every reply to one request carries."""
    return Header(
        id=f"{prefix}-{uuid4().hex}",
        created=int(time.time()),
        model=model.name,
        system_fingerprint=model.fingerprint,
    )


def count_usage(prompts: Iterable[Iterable[TextDelta]]) -> replies.Usage:
    """Add up the counts of prompts, given the last delta of each of their answers so far."""
    num_prompt = num_cached = num_output = 0
    for last_deltas in filter(None, map(tuple, prompts)):
        first, *others = last_deltas
        num_prompt += first.num_prompt_tokens
        num_cached += first.num_cached_tokens
        num_output += sum(delta.num_output_tokens for delta in (first, *others))
    return replies.Usage(
        prompt_tokens=num_prompt,
        completion_tokens=num_output,
        total_tokens=num_prompt + num_output,
        prompt_tokens_details=replies.PromptTokensDetails(cached_tokens=num_cached),
    )


def by_answer(deltas: Iterable[TextDelta]) -> list[list[TextDelta]]:
    """Sort the deltas of a prompt by answer."""
    answers: dict[int, list[TextDelta]] = {}
    for delta in deltas:
        answers.setdefault(delta.index, []).append(delta)
    return [answers[index] for index in sorted(answers)]


def routed_experts(deltas: Sequence[TextDelta]) -> Sequence[replies.Route] | None:
    """Return the experts asked for each token, layer by layer, or None where nobody wanted to know."""
    routed = [delta.routed_experts for delta in deltas if delta.routed_experts is not None]
    return mapped(lambda layers: [list(experts) for experts in layers], routed) if routed else None


def dropped_experts(deltas: Iterable[TextDelta]) -> dict[int, int] | None:
    """Count, by expert, the choices that were done without, or None where there were none."""
    counts: Counter[int] = Counter()
    for delta in deltas:
        counts.update(dict(delta.dropped_experts))
    return dict(sorted(counts.items())) or None


def token_text(generator: TextGenerator, token_id: int) -> str:
    """Text of one token: the name of a control token, ``\\xNN`` for a byte of an incomplete character."""
    text = generator.token_bytes(token_id).decode(errors="backslashreplace")
    return text or generator.piece(token_id)


def describe_token(generator: TextGenerator, choice: Choice) -> replies.TokenLogprob:
    """Describe a token whose probability was asked for."""
    top = [_top(generator, token_id, logprob) for token_id, logprob in choice.top_logprobs]
    own = _top(generator, choice.token_id, choice.logprob or 0.0)
    return replies.TokenLogprob(**own.model_dump(), top_logprobs=top)


def describe_prompt(
    generator: TextGenerator, prompt_logprobs: tuple[Choice, ...] | None
) -> Sequence[replies.TokenLogprob | None] | None:
    """Describe the tokens of a prompt; the first was not predicted."""
    if prompt_logprobs is None:
        return None
    return Mapped(lambda choice: choice and describe_token(generator, choice), (None, *prompt_logprobs))


def _top(generator: TextGenerator, token_id: int, logprob: float) -> replies.TopLogprob:
    text, utf8 = token_text(generator, token_id), generator.token_bytes(token_id)
    return replies.TopLogprob(token=text, logprob=logprob, bytes=list(utf8))
