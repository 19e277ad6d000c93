"""Configurations of any kind: read, or refused with file, key, value and what would be right, but never a traceback."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CONFIG as MIXTRAL
from checkpoints import DENSE_MODEL, RandomCheckpoint, awq_quantization, gptq_quantization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expertmesh.architectures import mistral, mistral_params, mixtral, rope
from expertmesh.architectures.key_rules import KeyRules
from expertmesh.architectures.mistral_params import NAMES
from expertmesh.checkpoint.configuration import read_configuration
from expertmesh.checkpoint.quantization import AWQ_KEYS, GPTQ_KEYS, read_quantization
from expertmesh.errors import CheckpointError
from expertmesh.gateway import generation_config
from expertmesh.model.rope import RotaryEmbedding

PARAMS = {
    **{theirs: MIXTRAL[ours] for theirs, ours in NAMES.items() if MIXTRAL.get(ours) and theirs != "max_seq_len"},
    "moe": {"num_experts": 8, "num_experts_per_tok": 2},
}
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, 10**400, 1e-320, 40000, -1, 0, 1, 4096.0])
WORDS = st.text(max_size=5) | st.sampled_from(["yarn", "linear", "dynamic", "longrope", "MixtralForCausalLM", "gptq"])
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS
ROPE_KEYS = sorted({*rope.COMMON, *(key for keys in rope.KINDS.values() for key in keys)})
ROPES = st.dictionaries(st.sampled_from(ROPE_KEYS), LEAVES) | st.fixed_dictionaries(
    {"rope_type": st.sampled_from(sorted(rope.KINDS)), "factor": NUMBERS},
    optional=dict.fromkeys([key for key in rope.KINDS["yarn"] if key != "factor"], NUMBERS),
)
VALUES = st.recursive(
    LEAVES | ROPES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
WRONG = re.compile(r"(is .*; (.+ would be right|it must be .+)|is not supported.*; supported: .+)$", re.DOTALL)
often = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def changes(rules: KeyRules) -> st.SearchStrategy[dict[str, Any]]:
    """Draw other values for up to three keys, most of them known."""
    known = [key for rule in rules for key in rule.keys]
    return st.dictionaries(st.sampled_from(known) | WORDS, VALUES, min_size=1, max_size=3)


def assert_read_or_refused(file: Path, values: Mapping[str, Any], changed: Mapping[str, Any], read) -> None:
    file.write_text(json.dumps({**values, **changed}))
    try:
        read()
    except CheckpointError as error:
        where, _, what = str(error).partition(": ")
        assert where == str(file)
        assert WRONG.search(what)
        assert any(key in what for key in changed) or what.startswith("quantization ")


def start(directory: Path) -> None:
    """Do with a configuration what does not take its weights."""
    model = read_configuration(directory).model
    RotaryEmbedding(min(model.head_dim, 64), 8, model.rope, torch.device("cpu"))


@often
@given(changed=changes(mixtral.KEYS))
def test_config_json_of_mixtral(tmp_path, changed):
    assert_read_or_refused(tmp_path / "config.json", MIXTRAL, changed, lambda: start(tmp_path))


@often
@given(changed=changes(mistral.KEYS))
def test_config_json_of_mistral(tmp_path, changed):
    values = {**MIXTRAL, **DENSE_MODEL}
    assert_read_or_refused(tmp_path / "config.json", values, changed, lambda: start(tmp_path))


@often
@given(changed=changes(mistral_params.KEYS))
def test_params_json(tmp_path, changed):
    assert_read_or_refused(tmp_path / "params.json", PARAMS, changed, lambda: start(tmp_path))


@often
@given(changed=changes(generation_config.KEYS))
def test_generation_config_json(tmp_path, changed):
    def read() -> None:
        generation_config.read_defaults(tmp_path)
        generation_config.read_eos_ids(tmp_path, 512)

    assert_read_or_refused(tmp_path / "generation_config.json", {"do_sample": True}, changed, read)


@often
@given(changed=changes(AWQ_KEYS))
def test_quant_config_json(tmp_path, changed):
    values = awq_quantization(64, file="quant_config.json").config
    assert_read_or_refused(tmp_path / "quant_config.json", values, changed, lambda: read_quantization(tmp_path, {}))


@often
@given(changed=changes(GPTQ_KEYS))
def test_quantize_config_json(tmp_path, changed):
    values = gptq_quantization().config
    assert_read_or_refused(tmp_path / "quantize_config.json", values, changed, lambda: read_quantization(tmp_path, {}))


@pytest.fixture
def made(make_mixtral) -> RandomCheckpoint:
    return make_mixtral()


def test_config_json_stands_before_params_json(made):
    (made.directory / "params.json").write_text("no JSON")
    assert read_configuration(made.directory).file == made.directory / "config.json"


def test_where_there_is_neither_config_json_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        read_configuration(tmp_path)
