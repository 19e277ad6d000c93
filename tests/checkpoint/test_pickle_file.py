import os

import pytest
import torch

from expertmesh.checkpoint.pickle_file import PickleFile
from expertmesh.errors import CheckpointError


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(params=[True, False], ids=["zip", "before torch 1.6"])
def save(request, tmp_path):
    def save(content):
        torch.save(content, tmp_path / "weights.pt", _use_new_zipfile_serialization=request.param)
        return tmp_path / "weights.pt"

    return save


def test_tensors_are_described_and_read(save):
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4, dtype=torch.bfloat16), "none": torch.empty(0, 5)}
    path = save(tensors)
    file = PickleFile(path)
    assert {name: (e.dtype, e.shape, e.num_bytes, e.file) for name, e in file.entries.items()} == {
        "a": ("F32", (2, 3), 24, path),
        "b": ("BF16", (4,), 8, path),
        "none": ("F32", (0, 5), 0, path),
    }
    for name, tensor in tensors.items():
        assert file.read(name).equal(tensor)
    assert file.read("a", (1, slice(1, 3))).tolist() == [4.0, 5.0]
    assert file.sample("a", 8) == torch.tensor([2.0, 3.0]).numpy().tobytes()
    assert len(file.sample("a", 1000)) == 24
    assert file.sample("none", 8) == b""


def test_code_is_not_run(tmp_path, save):
    victim = tmp_path / "victim"
    path = save({"a": Malicious(str(victim))})
    with pytest.raises(CheckpointError, match=r"weights.pt holds more than tensors and is not loaded"):
        PickleFile(path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, torch.ones(1)])
def test_anything_but_a_dictionary_of_tensors_is_refused(save, content):
    with pytest.raises(CheckpointError, match="does not hold a dictionary of tensors"):
        PickleFile(save(content))


@pytest.mark.parametrize("size", [0, 1, 100, -100])
def test_a_truncated_file_is_refused(save, size):
    path = save({"a": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"weights.pt is damaged or not a file of torch.save"):
        PickleFile(path)


def test_what_begins_like_no_file_of_torch_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"not weights")
    with pytest.raises(
        CheckpointError, match=r"weights.pt is damaged or not a file of torch.save: it begins like none"
    ):
        PickleFile(tmp_path / "weights.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"weights.pt is missing"):
        PickleFile(tmp_path / "weights.pt")
