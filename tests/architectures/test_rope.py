import re
from typing import Any

import pytest
from published import FILE

from expertmesh.architectures.keys import Keys
from expertmesh.architectures.rope import Rope, Yarn, read_rope
from expertmesh.errors import CheckpointError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}


def read(**values: Any) -> Rope:
    return read_rope(Keys({"rope_theta": 1e6, **values}, FILE), 32768)


def test_parameters_stand_before_a_theta_beside_them():
    assert read(rope_parameters={"rope_theta": 5e5}) == Rope(5e5)
    assert read(rope_scaling={"rope_type": "default"}) == read(rope_scaling={}) == read() == Rope(1e6)


def test_older_and_newer_words_mean_the_same():
    newer = read(rope_parameters={"rope_type": "linear", "factor": 2})
    assert newer == Rope(1e6, stretch=2)
    for older in ({"type": "linear", "factor": 2.0}, {"rope_type": "linear", "type": "linear", "factor": 2.0}):
        assert read(rope_scaling=older) == read(rope_scaling=older, rope_parameters=older) == newer


def test_dynamic_is_plain_as_far_as_the_model_reaches():
    assert read(rope_scaling={"type": "dynamic", "factor": 4.0}) == Rope(1e6)


def test_yarn_has_the_bounds_of_the_paper():
    assert read(rope_parameters=YARN).yarn == Yarn(4.0, 8192, 32, 1, True, pytest.approx(1.1386294))
    assert read(rope_parameters={**YARN, "original_max_position_embeddings": None}).yarn.original_positions == 32768
    assert read(rope_parameters={**YARN, "finetuned": True}) == read(rope_parameters=YARN)
    assert read(rope_parameters=YARN, original_max_position_embeddings=4096).yarn.original_positions == 4096


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_theta": 1}, "rope_theta is 1; a number above 1 would be right"),
        ({"rope_theta": None}, "rope_theta is None; a number above 1 would be right"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'; an object would be right"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1e4}},
            "rope_scaling is {'type': 'linear', 'factor': 2}; the same as rope_parameters, {'rope_theta': 10000.0}, or",
        ),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}},
            "rope_scaling.type is 'linear'; the same as rope_scaling.rope_type, 'yarn', or neither, would be right",
        ),
        (
            {"rope_scaling": {"type": "longrope"}},
            "rope_scaling.type 'longrope' is not supported; supported: default, linear, dynamic, yarn",
        ),
        ({"rope_scaling": {"type": ["yarn"]}}, "rope_scaling.type is ['yarn']; a word would be right"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is None; a positive number would be right"),
        ({"rope_scaling": {"type": "yarn", "factor": 0}}, "rope_scaling.factor is 0; a positive number would be"),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2, "original_max_position_embeddings": 4096}},
            "rope_scaling.original_max_position_embeddings 4096 is not supported (dynamic has no such key); supported",
        ),
        (
            {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.1}},
            "rope_parameters.llama_4_scaling_beta 0.1 is not supported (yarn has no such key)",
        ),
        ({"rope_parameters": {"full_attention": YARN}}, "rope_parameters.full_attention {"),
        (
            {"rope_parameters": {**YARN, "mscale": 1}},
            "rope_parameters.mscale is 1; both it and mscale_all_dim, or neither",
        ),
        ({"rope_parameters": {**YARN, "beta_fast": "32"}}, "rope_parameters.beta_fast is '32'; a positive number"),
        ({"rope_parameters": {**YARN, "truncate": 1}}, "rope_parameters.truncate is 1; true or false would be right"),
    ],
)
def test_what_cannot_be_done_is_named(values: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=re.escape(f"{FILE}: {message}")):
        read(**values)
