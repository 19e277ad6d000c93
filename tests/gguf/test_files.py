"""Which files make a model, and what they hold, against the package's own reader."""

import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_files import finish, write_gguf

from expertmesh.errors import CheckpointError
from expertmesh.gguf.files import find_gguf, open_gguf

TINY = {"num_hidden_layers": 1, "num_local_experts": 2, "vocab_size": 16}


def write_small(path: Path, value: int = 0) -> Path:
    """Write a file with a key and a tensor."""
    writer = GGUFWriter(path, "llama")
    writer.add_uint32("value", value)
    writer.add_tensor("one", np.full(8, value, dtype=np.float32))
    finish(writer)
    return path


@pytest.mark.parametrize("num_files", [1, 3])
def test_metadata_and_tensors_are_those_of_the_files(tmp_path, num_files):
    first = write_gguf(tmp_path, "Q4_0", num_files=num_files, **TINY).directory
    readers = {path: GGUFReader(path) for path in sorted(tmp_path.glob("*.gguf"))}
    assert len(readers) == num_files
    model = open_gguf(first)
    assert model.metadata == {name: field.contents() for name, field in readers[first].fields.items()}
    tensors = {tensor.name: (path, tensor) for path, reader in readers.items() for tensor in reader.tensors}
    assert list(model.tensors) == list(tensors)
    for name, (path, expected) in tensors.items():
        found = model.tensors[name]
        assert (found.file, found.kind, found.shape[::-1]) == (path, expected.tensor_type.name, tuple(expected.shape))
        assert np.array_equal(found.data, expected.data)


def test_any_file_of_a_split_model_leads_to_the_first(tmp_path):
    first = write_gguf(tmp_path, num_files=2, **TINY).directory
    assert {find_gguf(path) for path in (tmp_path, *tmp_path.glob("*.gguf"))} == {first}


def test_a_file_that_has_changed_is_read_again(tmp_path):
    path = write_small(tmp_path / "model.gguf", 1)
    before = open_gguf(path)
    assert open_gguf(path) is before
    path.unlink()
    assert open_gguf(write_small(path, 2)).metadata["value"] == 2


def test_checkpoints_of_other_kinds_are_none(tmp_path):
    assert find_gguf(tmp_path / "absent.gguf") is None
    assert find_gguf(tmp_path) is None
    (tmp_path / "some.gguf").touch()
    (tmp_path / "model.safetensors").touch()
    assert find_gguf(tmp_path) is None
    assert find_gguf(tmp_path / "model.safetensors") is None


def test_several_models_in_a_directory_are_refused(tmp_path):
    for name in ("a.Q4_K_M.gguf", "a.Q8_0-00001-of-00002.gguf", "a.Q8_0-00002-of-00002.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(
        CheckpointError, match=r"several models: a.Q4_K_M.gguf, a.Q8_0-00001-of-00002.gguf; the path of one of them"
    ):
        find_gguf(tmp_path)


def test_a_missing_file_of_a_split_model_is_named(tmp_path):
    first = write_gguf(tmp_path, num_files=3, **TINY).directory
    last = max(tmp_path.glob("*.gguf"))
    last.unlink()
    with pytest.raises(CheckpointError, match=f"{last} is missing"):
        open_gguf(first)


def test_a_renamed_file_of_a_split_model_is_named(tmp_path):
    first = write_gguf(tmp_path, num_files=2, **TINY).directory
    with pytest.raises(CheckpointError, match="it is one of 2 files; NAME-00001-of-00002.gguf would be right"):
        open_gguf(first.rename(tmp_path / "model.gguf"))


def test_a_file_of_another_split_is_noticed(tmp_path):
    first = write_gguf(tmp_path, num_files=2, **TINY).directory
    write_small(max(tmp_path.glob("*.gguf")))
    with pytest.raises(CheckpointError, match=r"split.tensors.count is \d+, but its files hold \d+"):
        open_gguf(first)


@pytest.mark.parametrize("size", [0, 3, 40, 100, -1])
def test_a_truncated_file_is_named(tmp_path, size):
    path = write_small(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=f"{path} is damaged or no GGUF file that is known"):
        open_gguf(path)


def test_the_extra_is_named_where_it_is_not_installed(tmp_path, monkeypatch):
    path = write_small(tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"needs gguf, .*: pip install 'expertmesh\[gguf\]' would be right"):
        open_gguf(path)
