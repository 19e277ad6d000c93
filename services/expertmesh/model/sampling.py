"""What a request may ask of sampling, and what it gets. Knows ranges, not tensors."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from expertmesh.errors import InvalidRequestError

MAX_SEED = 2**64 - 1
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 100.0


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """A token and how probable the model found it: natural logarithms, before any parameter of the request.

    ``logprob`` is None unless the request asked for it; ``top_logprobs`` are the most probable (id, logprob), best
    first.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; ``generation.proto`` says what each field means."""

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def validate(self, vocab_size: int | None = None) -> None:
        """Raise InvalidRequestError that names the first field out of its range.

        Without a ``vocab_size`` token ids are not checked.
        """
        for field, holds, allowed in self._rules():
            if not holds:
                raise InvalidRequestError(f"{field} is {getattr(self, field)}; it must be {allowed}", field)
        if vocab_size is not None:
            _check_ids("logit_bias", (token_id for token_id, _ in self.logit_bias), vocab_size)
            _check_ids("stop_ids", self.stop_ids, vocab_size)

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Yield (field, whether its value is right, what would be)."""
        yield "max_tokens", self.max_tokens is None or self.max_tokens >= 1, "at least 1"
        yield "min_tokens", self.min_tokens >= 0, "at least 0"
        fits = self.max_tokens is None or self.min_tokens <= self.max_tokens
        yield "min_tokens", fits, f"at most max_tokens, {self.max_tokens}"
        yield "temperature", 0 <= self.temperature < math.inf, "at least 0 and finite"
        yield "top_k", self.top_k >= 0, "at least 0"
        yield "top_p", 0 < self.top_p <= 1, "above 0 and at most 1"
        yield "min_p", 0 <= self.min_p <= 1, "from 0 to 1"
        yield "typical_p", 0 < self.typical_p <= 1, "above 0 and at most 1"
        yield "repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0 and finite"
        yield "frequency_penalty", -2 <= self.frequency_penalty <= 2, "from -2 to 2"
        yield "presence_penalty", -2 <= self.presence_penalty <= 2, "from -2 to 2"
        biases = all(abs(bias) <= MAX_LOGIT_BIAS for _, bias in self.logit_bias)
        yield "logit_bias", biases, f"from {-MAX_LOGIT_BIAS:g} to {MAX_LOGIT_BIAS:g} for each token"
        is_unique = len({token_id for token_id, _ in self.logit_bias}) == len(self.logit_bias)
        yield "logit_bias", is_unique, "given once for each token"
        yield "seed", self.seed is None or 0 <= self.seed <= MAX_SEED, f"from 0 to {MAX_SEED}"
        for field in ("logprobs", "prompt_logprobs"):
            count = getattr(self, field)
            yield field, count is None or 0 <= count <= MAX_LOGPROBS, f"from 0 to {MAX_LOGPROBS}"


def _check_ids(field: str, ids: Iterable[int], vocab_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(f"{field} names token {token_id}, outside the vocabulary of {vocab_size}", field)
