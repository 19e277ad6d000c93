import json
import re

import pytest
from transformers import GenerationConfig

from expertmesh.errors import CheckpointError
from expertmesh.gateway.generation_config import KEYS, SAMPLING_DEFAULTS, read_defaults, read_eos_ids
from expertmesh.model.sampling import SamplingParams


def write(directory, **config):
    (directory / "generation_config.json").write_text(json.dumps(config))


def test_without_a_file_requests_are_greedy(tmp_path):
    assert read_defaults(tmp_path) == SamplingParams()
    assert read_eos_ids(tmp_path, 8) == frozenset()


def test_what_the_model_suggests_is_taken(tmp_path):
    write(tmp_path, do_sample=True, temperature=0.6, top_p=0.9, top_k=0, min_p=0.05, typical_p=0.8, eos_token_id=[2, 7])
    expected = SamplingParams(temperature=0.6, top_p=0.9, min_p=0.05, typical_p=0.8)
    assert read_defaults(tmp_path) == expected
    assert read_eos_ids(tmp_path, 8) == {2, 7}


def test_who_samples_and_says_no_more_means_what_transformers_takes_it_for(tmp_path):
    write(tmp_path, do_sample=True, top_k=None)
    theirs = GenerationConfig._get_default_generation_params()
    assert read_defaults(tmp_path) == SamplingParams(**SAMPLING_DEFAULTS)
    assert {key: theirs[key] for key in SAMPLING_DEFAULTS} == SAMPLING_DEFAULTS
    others = {key: getattr(SamplingParams, key) for key in ("top_p", "typical_p", "repetition_penalty")}
    assert {key: theirs[key] for key in others} == others


def test_without_do_sample_a_temperature_says_nothing(tmp_path):
    write(tmp_path, temperature=0.6)
    assert read_defaults(tmp_path) == SamplingParams()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"top_p": 3}, "top_p is 3; it must be above 0 and at most 1"),
        ({"do_sample": True, "temperature": "hot"}, "temperature is 'hot'; a number would be right"),
        ({"do_sample": "yes"}, "do_sample is 'yes'; true or false would be right"),
        ({"top_k": 1.5}, "top_k is 1.5; an integer would be right"),
        ({"num_beams": 4}, "num_beams 4 is not supported; supported: 1"),
        ({"stop_strings": ["###"]}, "stop_strings ['###'] is not supported; supported: [] or {}"),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id 2 is not supported; supported: leaving it out"),
    ],
)
def test_what_cannot_be_done_names_file_key_and_value(tmp_path, config, message):
    write(tmp_path, **config)
    with pytest.raises(CheckpointError, match=re.escape(f"generation_config.json: {message}")):
        read_defaults(tmp_path)


@pytest.mark.parametrize("eos", ["</s>", 8, -1, [2, "x"]])
def test_what_is_no_token_of_the_vocabulary_ends_no_answer(tmp_path, eos):
    write(tmp_path, eos_token_id=eos)
    with pytest.raises(CheckpointError, match=r"generation_config.json: eos_token_id is .* would be right"):
        read_eos_ids(tmp_path, 8)


def test_transformers_knows_no_key_without_a_rule():
    keys = [key for rule in KEYS for key in rule.keys]
    assert len(keys) == len(set(keys))
    assert set(GenerationConfig().to_dict()) - set(keys) == set()


def test_what_transformers_means_by_nothing_is_not_refused(tmp_path):
    write(tmp_path, **GenerationConfig._get_default_generation_params())
    assert read_defaults(tmp_path).temperature == 0
