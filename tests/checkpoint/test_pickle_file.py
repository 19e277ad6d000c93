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


def save(directory, content):
    torch.save(content, directory / "weights.pt")
    return directory / "weights.pt"


def test_tensors_are_described_and_read(tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4, dtype=torch.bfloat16), "none": torch.empty(0, 5)}
    path = save(tmp_path, tensors)
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


def test_code_is_not_run(tmp_path):
    victim = tmp_path / "victim"
    path = save(tmp_path, {"a": Malicious(str(victim))})
    with pytest.raises(CheckpointError, match=r"weights.pt holds more than tensors and is not loaded"):
        PickleFile(path)
    assert not victim.exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], {"a": 1}, torch.ones(1)])
def test_anything_but_a_dictionary_of_tensors_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match="does not hold a dictionary of tensors"):
        PickleFile(save(tmp_path, content))


@pytest.mark.parametrize("size", [0, 1, 100, -100])
def test_a_truncated_file_is_refused(tmp_path, size):
    path = save(tmp_path, {"a": torch.ones(1000)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"weights.pt is damaged or not a file of torch.save"):
        PickleFile(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"weights.pt is missing"):
        PickleFile(tmp_path / "weights.pt")
