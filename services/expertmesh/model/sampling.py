"""What a request may ask of sampling. Knows ranges, not tensors."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from expertmesh.errors import InvalidRequestError

MAX_SEED = 2**64 - 1
MAX_LOGPROBS = 20

_PARAMETER = "parameter"


@dataclass(frozen=True)
class Parameter:
    """What users are told of a parameter, and its range: at least ``ge``, above ``gt``, at most ``le``.

    A model may suggest a default of those that are ``suggested``.
    """

    text: str
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    is_finite: bool = False
    is_suggested: bool = False

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that there are, by name."""
        bounds = {"ge": self.ge, "gt": self.gt, "le": self.le}
        return {name: bound for name, bound in bounds.items() if bound is not None}

    @property
    def allowed(self) -> str:
        """The range in words."""
        if self.ge is not None and self.le is not None:
            return f"from {_number(self.ge)} to {_number(self.le)}"
        low = f"at least {self.ge}" if self.gt is None else f"above {self.gt}"
        return f"{low} and at most {self.le}" if self.le is not None else low + " and finite" * self.is_finite

    def allows(self, value: float) -> bool:
        """Tell whether the range has ``value``; it never has NaN."""
        is_above = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        return is_above and (self.le is None or value <= self.le) and (not self.is_finite or value < math.inf)


def _number(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def _parameter(default: Any, text: str, **known: Any) -> Any:
    return field(default=default, metadata={_PARAMETER: Parameter(text, **known)})


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; ``generation.proto`` says more of what each field means."""

    max_tokens: int | None = _parameter(None, "Tokens to produce at most.", ge=1)
    min_tokens: int = _parameter(0, "Tokens that an answer has at least.", ge=0)
    temperature: float = _parameter(0.0, "0 = always the most probable token.", ge=0, is_finite=True, is_suggested=True)
    top_k: int = _parameter(0, "Keep the k most probable tokens; 0 = all.", ge=0, is_suggested=True)
    top_p: float = _parameter(1.0, "Keep the most probable tokens that add up to p.", gt=0, le=1, is_suggested=True)
    min_p: float = _parameter(
        0.0,
        "Keep tokens at least so many times as probable as the most probable one.",
        ge=0,
        le=1,
        is_suggested=True,
    )
    typical_p: float = _parameter(1.0, "Locally typical sampling: mass to keep.", gt=0, le=1, is_suggested=True)
    repetition_penalty: float = _parameter(
        1.0,
        "Divides logits of tokens seen in prompt or output; above 1 avoids them.",
        gt=0,
        is_finite=True,
        is_suggested=True,
    )
    frequency_penalty: float = _parameter(
        0.0, "Lowers the logit of a token for each time it was produced.", ge=-2, le=2
    )
    presence_penalty: float = _parameter(0.0, "Lowers the logit of a token that was produced.", ge=-2, le=2)
    logit_bias: tuple[tuple[int, float], ...] = _parameter(
        (), "Adds to the logits of tokens, by id.", ge=-100.0, le=100.0
    )
    seed: int | None = _parameter(None, "Makes sampling repeatable.", ge=0, le=MAX_SEED)
    stop_ids: tuple[int, ...] = _parameter((), "End an answer with any of these tokens.", ge=0)
    ignore_eos: bool = _parameter(False, "Go on behind the end-of-sequence token.")
    logprobs: int | None = _parameter(
        None, "Return how probable each token was, and so many alternatives.", ge=0, le=MAX_LOGPROBS
    )
    prompt_logprobs: int | None = _parameter(
        None,
        "Return how probable each token of the prompt was, and so many alternatives.",
        ge=0,
        le=MAX_LOGPROBS,
    )

    def validate(self, vocab_size: int | None = None) -> None:
        """Raise InvalidRequestError that names the first field out of its range.

        Without a ``vocab_size`` token ids are not checked.
        """
        for name, parameter in PARAMETERS.items():
            value = getattr(self, name)
            if parameter.bounds and value is not None and not isinstance(value, tuple):
                self._check(name, parameter.allows(value), parameter.allowed)
        fits = self.max_tokens is None or self.min_tokens <= self.max_tokens
        self._check("min_tokens", fits, f"at most max_tokens, {self.max_tokens}")
        self._check_biases(PARAMETERS["logit_bias"])
        if vocab_size is not None:
            _check_ids("logit_bias", (token_id for token_id, _ in self.logit_bias), vocab_size)
            _check_ids("stop_ids", self.stop_ids, vocab_size)

    def _check_biases(self, each: Parameter) -> None:
        is_allowed = all(each.allows(bias) for _, bias in self.logit_bias)
        self._check("logit_bias", is_allowed, f"{each.allowed} for each token")
        is_unique = len({token_id for token_id, _ in self.logit_bias}) == len(self.logit_bias)
        self._check("logit_bias", is_unique, "given once for each token")

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise InvalidRequestError(f"{name} is {getattr(self, name)}; it must be {allowed}", name)


PARAMETERS: dict[str, Parameter] = {one.name: one.metadata[_PARAMETER] for one in fields(SamplingParams)}


def _check_ids(field: str, ids: Iterable[int], vocab_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(f"{field} names token {token_id}, outside the vocabulary of {vocab_size}", field)
