import math
from typing import Any

import pytest

from expertmesh.errors import InvalidRequestError
from expertmesh.model.sampling import SamplingParams


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 1, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 0},
        {"max_tokens": 10**9, "temperature": 100.0, "top_k": 10**6, "top_p": 1e-6, "seed": 2**64 - 1},
        {"max_tokens": 5, "min_tokens": 5, "min_p": 0.0, "typical_p": 1e-6, "logprobs": 0, "prompt_logprobs": 0},
        {"min_tokens": 10**9, "min_p": 1.0, "typical_p": 1.0, "logprobs": 20, "prompt_logprobs": 20},
        {"frequency_penalty": -2.0, "presence_penalty": 2.0, "logit_bias": ((0, -100.0), (99, 100.0))},
        {"stop_ids": (0, 99)},
    ],
)
def test_values_at_the_borders_are_fine(fields: dict[str, Any]):
    SamplingParams(**fields).validate()
    SamplingParams(**fields).validate(vocab_size=100)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        *(("temperature", value) for value in (-0.1, math.nan, math.inf)),
        ("top_k", -1),
        *(("top_p", value) for value in (0.0, -0.5, 1.01, math.nan)),
        *(("repetition_penalty", value) for value in (0.0, -1.0, math.nan, math.inf)),
        *(("min_p", value) for value in (-0.1, 1.01, math.nan)),
        *(("typical_p", value) for value in (0.0, 1.01, math.nan)),
        *(("frequency_penalty", value) for value in (-2.1, 2.1, math.nan)),
        *(("presence_penalty", value) for value in (-2.1, 2.1, math.nan)),
        *(("seed", value) for value in (-1, 2**64)),
        *((field, value) for field in ("logprobs", "prompt_logprobs") for value in (-1, 21)),
        ("min_tokens", -1),
    ],
)
def test_values_beyond_are_named(field: str, value: float):
    with pytest.raises(InvalidRequestError, match=f"^{field} is {value}; it must be"):
        SamplingParams(**{field: value}).validate()


@pytest.mark.parametrize("bias", [-100.5, 101.0, math.nan, math.inf])
def test_bias_beyond_its_range_is_named(bias: float):
    with pytest.raises(InvalidRequestError, match=r"^logit_bias is .*from -100 to 100 for each token"):
        SamplingParams(logit_bias=((3, 1.0), (4, bias))).validate()


def test_a_token_has_one_bias():
    with pytest.raises(InvalidRequestError, match=r"^logit_bias is .*given once for each token"):
        SamplingParams(logit_bias=((3, 1.0), (3, 1.0))).validate()


def test_min_tokens_fit_into_max_tokens():
    with pytest.raises(InvalidRequestError, match=r"^min_tokens is 6; it must be at most max_tokens, 5"):
        SamplingParams(max_tokens=5, min_tokens=6).validate()


@pytest.mark.parametrize("fields", [{"logit_bias": ((100, 1.0),)}, {"stop_ids": (5, -1)}])
def test_ids_outside_the_vocabulary_are_named(fields: dict[str, Any]):
    SamplingParams(**fields).validate()
    with pytest.raises(InvalidRequestError, match=rf"^{next(iter(fields))} names token (100|-1), outside .* of 100$"):
        SamplingParams(**fields).validate(vocab_size=100)
