"""How large the answers to a request may become, before anything is computed. Knows what was asked, no API's form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.wire.model_info import ModelInfo

# What one of them takes in JSON at the most, but for rare tokens. What a stream wraps around each token does not count:
# it is sent at once and never held.
TEXT_BYTES = 32
ID_BYTES = 8
LOGPROB_BYTES = 96
EXPERT_BYTES = 4


@dataclass(frozen=True)
class _Size:
    """Bytes of the answers to one prompt: those of each answer whatever its length, and those of each of its tokens."""

    num_answers: int
    answer_bytes: int
    token_bytes: int
    max_tokens: int

    def of(self, max_tokens: int | None = None) -> int:
        """Bytes of all answers."""
        num_tokens = self.max_tokens if max_tokens is None else min(max_tokens, self.max_tokens)
        return self.num_answers * (self.answer_bytes + num_tokens * self.token_bytes)


@dataclass(frozen=True)
class ResponseLimit:
    """Refuses requests whose answers could become larger than ``max_bytes``, all answers to all prompts together."""

    get_model: Callable[[], ModelInfo]
    max_bytes: int

    def fit(self, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
        """Return the requests of one client's call, one for each prompt and alike in all else.

        Where they leave open how long answers may be, they are to be no longer than fits. InvalidRequestError names
        what was found and what would fit.
        """
        sizes = [_size_of(request, self.get_model()) for request in requests]
        if sum(size.of() for size in sizes) <= self.max_bytes:
            return list(requests)
        fitting = self._fitting_tokens(sizes)
        sampling = requests[0].sampling
        if sampling.max_tokens is not None or fitting < max(sampling.min_tokens, 1):
            raise InvalidRequestError(self._describe(requests[0], sizes, fitting), "n")
        return [replace(request, sampling=replace(request.sampling, max_tokens=fitting)) for request in requests]

    def _fitting_tokens(self, sizes: Sequence[_Size]) -> int:
        """Return how long each answer may be; less than 1 where none fits."""
        left = self.max_bytes - sum(size.of(max_tokens=0) for size in sizes)
        return left // sum(size.num_answers * size.token_bytes for size in sizes)

    def _describe(self, request: GenerationRequest, sizes: Sequence[_Size], fitting: int) -> str:
        num_answers, num_bytes = sizes[0].num_answers, sum(size.of() for size in sizes)
        fitting_answers = num_answers * self.max_bytes // num_bytes
        better = [
            *([f"n {fitting_answers}"] if 1 <= fitting_answers < num_answers else []),
            *([f"max_tokens {fitting}"] if fitting >= 1 else []),
        ]
        sampling = request.sampling
        return (
            f"the response could have {num_bytes / 2**20:.1f} MiB, more than {self.max_bytes / 2**20:g}: "
            f"{len(sizes)} prompts, {num_answers} answers to each, of at most "
            f"{max(size.max_tokens for size in sizes)} tokens, logprobs {_or_none(sampling.logprobs)}, "
            f"prompt_logprobs {_or_none(sampling.prompt_logprobs)}. "
            f"{' or '.join(better) or 'Fewer prompts or logprobs'} would fit"
        )


def _size_of(request: GenerationRequest, model: ModelInfo) -> _Size:
    sampling, num_prompt = request.sampling, len(request.prompt_ids)
    room = max(model.max_model_len - num_prompt, 1)
    prompt_token_bytes = ID_BYTES + _logprob_bytes(sampling.prompt_logprobs)
    if request.echoes:
        prompt_token_bytes += TEXT_BYTES + _logprob_bytes(sampling.logprobs)
    routed_bytes = EXPERT_BYTES * model.num_layers * (model.num_experts_per_token + 1)
    return _Size(
        request.num_sequences,
        num_prompt * prompt_token_bytes,
        TEXT_BYTES + _logprob_bytes(sampling.logprobs) + (routed_bytes if request.return_routed_experts else 0),
        min(sampling.max_tokens or room, room),
    )


def _logprob_bytes(num_alternatives: int | None) -> int:
    return 0 if num_alternatives is None else (num_alternatives + 1) * LOGPROB_BYTES


def _or_none(number: int | None) -> str:
    return "none" if number is None else str(number)
