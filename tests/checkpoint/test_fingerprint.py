import json
import re
import shutil

import pytest
import torch

from expertmesh.checkpoint.fingerprint import SAMPLE_BYTES, fingerprint
from expertmesh.checkpoint.reader import Checkpoint


@pytest.fixture(scope="module")
def made(make_mixtral):
    return make_mixtral(seed=3, group_size=32)


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made.directory, tmp_path, dirs_exist_ok=True)
    return tmp_path


def of(directory) -> str:
    return fingerprint(Checkpoint.open(directory))


def change_config(directory, **changes) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}, indent=4))


def test_it_is_short_and_the_same_wherever_the_files_lie(made, copy, make_mixtral):
    assert re.fullmatch("[0-9a-f]{16}", of(made.directory))
    assert of(copy) == of(made.directory)
    assert of(make_mixtral(seed=3, group_size=32, shards=4).directory) == of(made.directory)


def test_models_of_other_values_or_storage_differ(make_mixtral):
    directories = [
        make_mixtral(seed=3).directory,
        make_mixtral(seed=4).directory,
        make_mixtral(seed=3, dtype=torch.bfloat16).directory,
        make_mixtral(seed=3, dtype=torch.float16).directory,
        make_mixtral(seed=3, group_size=32).directory,
        make_mixtral(seed=3, group_size=64).directory,
        make_mixtral(seed=3, num_hidden_layers=1).directory,
    ]
    assert len({of(directory) for directory in directories}) == len(directories)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.block_sparse_moe.experts.7.w2.qweight"])
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_byte_of_a_sample_changes_it(copy, name, place):
    before = of(copy)
    files = Checkpoint.open(copy).files
    entry, sample = files.entry(name), files.sample(name, SAMPLE_BYTES)
    start = entry.file.read_bytes().index(sample)
    position = start if place == "first" else start + len(sample) - 1
    with entry.file.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    assert of(copy) != before


@pytest.mark.parametrize("changes", [{"rope_theta": 1e4}, {"num_experts_per_tok": 1}, {"sliding_window": 4096}])
def test_what_the_model_computes_with_changes_it(copy, changes):
    before = of(copy)
    change_config(copy, **changes)
    assert of(copy) != before


def test_what_tools_note_about_themselves_does_not(copy):
    before = of(copy)
    change_config(copy, transformers_version="4.36.0", _name_or_path="/somewhere", use_cache=False, dtype="bfloat16")
    assert of(copy) == before


def test_rounding_while_loading_makes_another_model(make_mixtral):
    directory = make_mixtral().directory
    marks = {fingerprint(Checkpoint.open(directory, bits)) for bits in (None, 4, 8)}
    assert len(marks) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", mark) for mark in marks)
