import json
from typing import Any

import pytest

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.gateway.response_size import LOGPROB_BYTES, TEXT_BYTES, ResponseLimit
from expertmesh.model.sampling import SamplingParams
from expertmesh.wire.model_info import ModelInfo

MODEL = ModelInfo("m", "a", "f", "w", 32, 4096, 8, 2, 32_000, 4096, "0", "avx2", True)
MIB = 2**20


def limit(mib: float) -> ResponseLimit:
    return ResponseLimit(lambda: MODEL, int(mib * MIB))


def request(num_prompt: int = 100, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerationRequest:
    return GenerationRequest((1,) * num_prompt, SamplingParams(**(sampling or {})), **fields)


@pytest.mark.parametrize(
    "asked",
    [
        request(),
        request(4095),
        request(1, {"max_tokens": 10**9}),
        request(1, {"max_tokens": 4095, "logprobs": 20}, n=1),
        request(4000, {"max_tokens": 1, "prompt_logprobs": 5}, n=2),
        request(1, {}, n=64, return_routed_experts=False),
    ],
    ids=lambda asked: f"{asked.sampling.max_tokens}",
)
def test_what_people_ask_for_fits_by_default(asked: GenerationRequest):
    assert ResponseLimit(lambda: MODEL, 64 * MIB).fit([asked]) == [asked]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (request(100, {"max_tokens": 4000, "logprobs": 20}, n=64), r"64 answers to each, .* 3996 tokens, logprobs 20"),
        (request(4000, {"max_tokens": 1, "prompt_logprobs": 20}, n=64), r"prompt_logprobs 20\. n 8 would fit"),
        (request(4000, {"max_tokens": 1, "logprobs": 20}, n=64, echoes=True), r"n 8 would fit"),
        (request(96, {"max_tokens": 4000}, n=64, return_routed_experts=True), r"n 40 or max_tokens 2518"),
        (request(1, {"max_tokens": 4000, "logprobs": 20}, best_of=64), r"64 answers"),
    ],
)
def test_what_could_become_too_large_is_refused_with_what_would_fit(asked: GenerationRequest, words: str):
    with pytest.raises(InvalidRequestError, match=words) as error:
        limit(64).fit([asked])
    assert error.value.param == "n"


def test_all_prompts_of_a_call_count_together():
    asked = request(100, {"max_tokens": 100, "logprobs": 4})
    bytes_each = 100 * (TEXT_BYTES + 5 * LOGPROB_BYTES) + 800
    assert ResponseLimit(lambda: MODEL, 3 * bytes_each).fit([asked] * 3) == [asked] * 3
    with pytest.raises(InvalidRequestError, match="4 prompts"):
        ResponseLimit(lambda: MODEL, 3 * bytes_each).fit([asked] * 4)


def test_what_is_said_to_fit_does():
    asked = request(1000, {"max_tokens": 2000, "logprobs": 20, "prompt_logprobs": 2}, n=64)
    with pytest.raises(InvalidRequestError) as error:
        limit(64).fit([asked])
    n, max_tokens = (
        int(part.split()[1]) for part in str(error.value).split(". ")[-1].removesuffix(" would fit").split(" or ")
    )
    for fitting in ({"sampling": {"max_tokens": 2000}, "n": n}, {"sampling": {"max_tokens": max_tokens}, "n": 64}):
        sampling = {"logprobs": 20, "prompt_logprobs": 2, **fitting["sampling"]}
        limit(64).fit([request(1000, sampling, n=fitting["n"])])
        more = {**sampling, "max_tokens": sampling["max_tokens"] + (n != fitting["n"])}
        with pytest.raises(InvalidRequestError):
            limit(64).fit([request(1000, more, n=fitting["n"] + (n == fitting["n"]))])


def test_an_answer_of_open_length_is_as_long_as_fits():
    asked = request(100, {"logprobs": 20}, n=2)
    [fitted] = limit(1).fit([asked])
    assert fitted.sampling.max_tokens is not None
    assert fitted.sampling.max_tokens < 3996
    assert limit(1).fit([fitted]) == [fitted]


def test_an_answer_of_open_length_that_cannot_have_its_minimum_is_refused():
    with pytest.raises(InvalidRequestError, match="would fit"):
        limit(0.01).fit([request(100, {"logprobs": 20, "min_tokens": 50})])
    with pytest.raises(InvalidRequestError, match="Fewer prompts or logprobs would fit"):
        limit(0.01).fit([request(4000, {"prompt_logprobs": 20})])


def test_a_logprob_in_json_has_no_more_bytes_than_it_is_reckoned_with():
    text = "é" * 4
    entry = {"token": text, "logprob": -12.345678901234567, "bytes": list(text.encode())}
    assert len(json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()) <= LOGPROB_BYTES
