import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from expertmesh.checkpoint.tensors import INDEX_FILES, SINGLE_FILES, TensorFiles
from expertmesh.errors import CheckpointError

INDEX_FILE, SINGLE_FILE = INDEX_FILES[0], SINGLE_FILES[0]


@pytest.fixture
def single(tmp_path):
    tensors = {"b": torch.arange(6, dtype=torch.float16).view(2, 3), "a": torch.arange(4.0), "none": torch.empty(0, 5)}
    save_file(tensors, tmp_path / SINGLE_FILE, metadata={"format": "pt"})
    return tmp_path


def test_entries_describe_what_is_read(single):
    files = TensorFiles.open(single)
    assert set(files.entries) == {"a", "b", "none"}
    for name, tensor in load_file(single / SINGLE_FILE).items():
        entry = files.entry(name)
        assert entry.shape == tensor.shape
        assert entry.num_bytes == tensor.nbytes
        assert files.sample(name, 1000) == tensor.numpy().tobytes()
        assert files.sample(name, 4) == tensor.numpy().tobytes()[(max(0, tensor.nbytes - 4)) // 2 :][:4]
        assert files.read(name).equal(tensor)
    assert "a" in files
    assert "c" not in files


def test_a_directory_without_weights_says_what_it_looked_for(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"holds no weights: neither model.safetensors.index.json, pytorch_model.bin.index.json,"
    ):
        TensorFiles.open(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map is missing"),
        ({"weight_map": ["a"]}, "weight_map is missing or does not map"),
        ({"weight_map": {"a": 1}}, "weight_map is missing or does not map"),
        ({"weight_map": {"a": "../model.safetensors"}}, r"'../model.safetensors' is not a file of this directory"),
        ({"weight_map": {"a": ""}}, "'' is not a file of this directory"),
        ({"weight_map": {"a": ".."}}, r"'\.\.' is not a file of this directory"),
        ({"weight_map": {"a": "\ud800"}}, "is not a file of this directory"),
        ({"weight_map": {"a": "/etc/passwd"}}, r"'/etc/passwd' is not a file of this directory"),
        ({"weight_map": {"a": "model-2.safetensors"}}, r"model-2.safetensors is missing"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(single, index, message):
    (single / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        TensorFiles.open(single)


def test_a_tensor_that_vanishes_after_opening_is_an_error(single):
    files = TensorFiles.open(single)
    (single / SINGLE_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensor a cannot be read"):
        files.read("a")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, -1])
def test_a_truncated_file_is_refused(single, size):
    raw = (single / SINGLE_FILE).read_bytes()
    (single / SINGLE_FILE).write_bytes(raw[:size])
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged or no safetensors file"):
        TensorFiles.open(single)


def test_a_longer_file_is_refused(single):
    with (single / SINGLE_FILE).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged or no safetensors file"):
        TensorFiles.open(single)


@pytest.mark.parametrize(
    "content", [b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / SINGLE_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        TensorFiles.open(tmp_path)


def test_a_directory_in_place_of_the_file_is_refused(tmp_path):
    (tmp_path / SINGLE_FILE).mkdir()
    with pytest.raises(CheckpointError, match="is damaged or no safetensors file"):
        TensorFiles.open(tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers_never_crash_and_never_read_beyond_their_tensor(single, tmp_path_factory, seed):
    """Flip bytes of the header: either it is refused, or what is read has the shape and bytes that its entry says."""
    source, target = single / SINGLE_FILE, tmp_path_factory.mktemp("damaged")
    raw = source.read_bytes()
    header_end = 8 + int.from_bytes(raw[:8], "little")
    chance = random.Random(seed)
    num_refused = 0
    for _ in range(250):
        damaged = bytearray(raw)
        for _ in range(chance.choice((1, 1, 2, 5))):
            damaged[chance.randrange(header_end)] = chance.randrange(256)
        (target / SINGLE_FILE).write_bytes(damaged)
        num_refused += not _reads_as_declared(target)
    assert num_refused > 100


def _reads_as_declared(directory) -> bool:
    try:
        files = TensorFiles.open(directory)
        for name, entry in files.entries.items():
            tensor = files.read(name)
            assert tuple(tensor.shape) == entry.shape
            assert tensor.nbytes == entry.num_bytes
    except CheckpointError:
        return False
    return True


def test_files_may_be_links(single, tmp_path_factory):
    """Download tools keep the data elsewhere and link to it."""
    linked = tmp_path_factory.mktemp("linked")
    stored = shutil.copy(single / SINGLE_FILE, linked / "blob")
    (linked / SINGLE_FILE).symlink_to(stored)
    assert TensorFiles.open(linked).read("a").tolist() == [0.0, 1.0, 2.0, 3.0]


def write(directory, *names):
    for i, name in enumerate(names):
        save_file({f"t{i}": torch.full((2,), float(i))}, directory / name)


@pytest.mark.parametrize(
    "names",
    [
        ("gptq_model-4bit-128g.safetensors",),
        ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        ("consolidated.safetensors",),
    ],
)
def test_files_are_found_without_an_index(tmp_path, names):
    write(tmp_path, *names)
    assert set(TensorFiles.open(tmp_path).entries) == {f"t{i}" for i in range(len(names))}


def test_hf_files_go_before_others(tmp_path):
    write(tmp_path, "consolidated.safetensors", "model.safetensors")
    assert set(TensorFiles.open(tmp_path).entries) == {"t1"}


def test_a_shard_that_is_missing_is_named_even_without_an_index(tmp_path):
    write(tmp_path, "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors is missing"):
        TensorFiles.open(tmp_path)


@pytest.mark.parametrize(
    "names", [("a.safetensors", "b.safetensors"), ("a-00001-of-00001.safetensors", "b-00001-of-00001.safetensors")]
)
def test_files_that_may_not_belong_together_are_not_mixed(tmp_path, names):
    write(tmp_path, *names)
    with pytest.raises(CheckpointError, match=f"holds {', '.join(names)} and no model.safetensors.index.json"):
        TensorFiles.open(tmp_path)
