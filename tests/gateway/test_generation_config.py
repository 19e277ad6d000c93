import json

import pytest

from expertmesh.errors import CheckpointError
from expertmesh.gateway.generation_config import read_defaults, read_eos_ids
from expertmesh.model.sampling import SamplingParams


def write(directory, **config):
    (directory / "generation_config.json").write_text(json.dumps(config))


def test_without_a_file_requests_are_greedy(tmp_path):
    assert read_defaults(tmp_path) == SamplingParams()
    assert read_eos_ids(tmp_path) == frozenset()


def test_what_the_model_suggests_is_taken(tmp_path):
    write(tmp_path, do_sample=True, temperature=0.6, top_p=0.9, top_k=None, eos_token_id=[2, 7])
    assert read_defaults(tmp_path) == SamplingParams(temperature=0.6, top_p=0.9)
    assert read_eos_ids(tmp_path) == {2, 7}


def test_without_do_sample_a_temperature_says_nothing(tmp_path):
    write(tmp_path, temperature=0.6)
    assert read_defaults(tmp_path).temperature == 0


@pytest.mark.parametrize("config", [{"top_p": 3}, {"do_sample": True, "temperature": "hot"}])
def test_values_out_of_range_name_file_and_field(tmp_path, config):
    write(tmp_path, **config)
    with pytest.raises(CheckpointError, match="generation_config.json"):
        read_defaults(tmp_path)
