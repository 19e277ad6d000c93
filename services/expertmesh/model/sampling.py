"""What a request may ask of sampling. Knows ranges, not tensors."""

import math
from dataclasses import dataclass

from expertmesh.errors import InvalidRequestError

MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; ``generation.proto`` says what each field means."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    ignore_eos: bool = False

    def validate(self) -> None:
        """Raise InvalidRequestError that names the first field out of its range."""
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        _require(0 <= self.temperature < math.inf, "temperature", self.temperature, "at least 0 and finite")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(
            0 < self.repetition_penalty < math.inf, "repetition_penalty", self.repetition_penalty, "above 0 and finite"
        )
        _require(self.seed is None or 0 <= self.seed <= MAX_SEED, "seed", self.seed, f"from 0 to {MAX_SEED}")


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidRequestError(f"{field} is {value}; it must be {allowed}")
