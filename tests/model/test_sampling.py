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
    ],
)
def test_values_at_the_borders_are_fine(fields: dict[str, Any]):
    SamplingParams(**fields).validate()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        *(("temperature", value) for value in (-0.1, math.nan, math.inf)),
        ("top_k", -1),
        *(("top_p", value) for value in (0.0, -0.5, 1.01, math.nan)),
        *(("repetition_penalty", value) for value in (0.0, -1.0, math.nan, math.inf)),
        *(("seed", value) for value in (-1, 2**64)),
    ],
)
def test_values_beyond_are_named(field: str, value: float):
    with pytest.raises(InvalidRequestError, match=f"^{field} is {value}; it must be"):
        SamplingParams(**{field: value}).validate()
