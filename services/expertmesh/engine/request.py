"""What a client asked for and how far it has come. Knows token ids and counts, not tensors or text."""

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from expertmesh.engine.blocks import ROOT
from expertmesh.engine.drafts import PromptLookup
from expertmesh.errors import InvalidRequestError, PromptTooLongError
from expertmesh.model.choice import Choice
from expertmesh.model.sampling import SamplingParams

# Experts of one row, layer by layer [L], the one with the most weight first [A].
Route = tuple[tuple[int, ...], ...]


class FinishReason(Enum):
    """Why a sequence ended."""

    STOP = "stop"  # the model ended its answer
    STOP_SEQUENCE = "stop_sequence"  # a stop string or stop id of the request came up
    LENGTH = "length"


class Constraint(Protocol):
    """What the next token of one sequence may be, for example so that the whole text fits a JSON schema."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which ids of the vocabulary [V] may come next; end-of-sequence ids too, where the text may end."""
        ...

    def advance(self, token_id: int) -> None:
        """Take the next token, one of the allowed ones."""
        ...

    def copy(self) -> Self:
        """Return the constraint of another sequence that has come as far as this one."""
        ...


@dataclass(frozen=True)
class Caller:
    """Who sent a request: the ``id`` of the key that was shown, or the address of who came without one.

    Prompts of callers with the same ``cache_salt`` share what is known of their beginnings.
    """

    id: str = ""
    has_key: bool = False
    cache_salt: str = ""


@dataclass(frozen=True)
class Request:
    """A prompt to continue: ids as the model sees them, template and begin-of-sequence id included.

    ``grammar`` is kind and source of what the text must look like, in the words of whoever makes constraints of it.
    ``no_replica`` says what becomes of it when an expert has no replica, one of ``WORDS``; empty = as is set.
    ``num_in_all`` sequences, this one included, are what a client wants at once. ``traceparent`` names the span of the
    request, empty when it is not sampled.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    grammar: tuple[str, str] | None = None
    return_routed_experts: bool = False
    no_replica: str = ""
    num_in_all: int = 1
    traceparent: str = ""
    caller: Caller = Caller()


@dataclass(frozen=True)
class Limits:
    """What a request may ask of the served model; ``max_sequences`` of one caller are held at once."""

    max_model_len: int
    vocab_size: int
    max_sequences: int | None = None

    def check(self, request: Request) -> None:
        """Raise InvalidRequestError if the request can never be served."""
        if self.max_sequences is not None and request.num_in_all > self.max_sequences:
            raise InvalidRequestError(
                f"the request asks for {request.num_in_all} sequences, one for each answer to each prompt; "
                f"at most {self.max_sequences} can be computed or wait at once",
                "n",
            )
        num_prompt = len(request.prompt_ids)
        if num_prompt == 0:
            raise InvalidRequestError("the prompt has no tokens; give at least one", "prompt")
        if num_prompt >= self.max_model_len:
            raise PromptTooLongError(
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested at least "
                f"{num_prompt + 1} tokens: {num_prompt} in the prompt and 1 for the answer. "
                f"A prompt of at most {self.max_model_len - 1} tokens would be right."
            )
        for token_id in request.prompt_ids:
            if not 0 <= token_id < self.vocab_size:
                raise InvalidRequestError(
                    f"token id {token_id} is outside the vocabulary of {self.vocab_size}", "prompt"
                )
        request.sampling.validate(self.vocab_size)


@dataclass(eq=False)
class Sequence:
    """A token stream in the making: its tokens, how many of them are in the KV cache, and its blocks there.

    ``past_ids`` are tokens that an engine before this one produced: they are part of the text and nobody's news. The
    first ``num_known_blocks`` blocks are known to the block pool as the prefix numbered ``known_prefix``.
    ``prompt_logprobs`` are those found so far. ``moved_at`` is when it came or was computed last, by
    ``time.monotonic``. ``dropped`` are experts that it was computed without, not told of yet; ``is_tainted`` from the
    first on, as what is in the KV cache is not what the model says.
    """

    request: Request
    max_tokens: int
    seed: int
    constraint: Constraint | None = None
    past_ids: tuple[int, ...] = ()
    tokens: list[int] = field(init=False)
    num_computed: int = 0
    num_cached_tokens: int = 0
    blocks: list[int] = field(default_factory=list)
    known_prefix: int = ROOT
    num_known_blocks: int = 0
    prompt_logprobs: list[Choice] = field(default_factory=list)
    lookup: PromptLookup = field(default_factory=PromptLookup)
    moved_at: float = field(default_factory=time.monotonic)
    dropped: Counter[int] = field(default_factory=Counter)
    is_tainted: bool = False

    def __post_init__(self) -> None:
        self.tokens = [*self.request.prompt_ids, *self.past_ids]
        if self.constraint is not None:
            for token_id in self.past_ids:
                self.constraint.advance(token_id)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_output_tokens(self) -> int:
        """Tokens produced so far."""
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def output_ids(self) -> list[int]:
        """The tokens produced so far."""
        return self.tokens[self.num_prompt_tokens :]

    @property
    def num_pending(self) -> int:
        """Tokens that are not in the KV cache yet."""
        return len(self.tokens) - self.num_computed

    @property
    def num_unscored(self) -> int:
        """Prompt tokens whose log probability is wanted and not known yet; the first token never has one.

        They go out with the first token of the answer, so that a sequence with a past wants none.
        """
        wants = self.request.sampling.prompt_logprobs is not None and not self.past_ids
        return self.num_prompt_tokens - 1 - len(self.prompt_logprobs) if wants else 0
