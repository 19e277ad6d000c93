import pytest
import torch
from safetensors.torch import save_file

from expertmesh.checkpoint.dtype_names import DTYPES
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.checkpoint.file_bytes import read_tensor
from expertmesh.checkpoint.safetensors_file import SafetensorsFile
from expertmesh.errors import CheckpointError

TENSORS = {
    "first": torch.arange(5, dtype=torch.uint8),
    "cube": torch.arange(4 * 6 * 8, dtype=torch.int32).view(4, 6, 8),
    "large": torch.arange(3 << 20, dtype=torch.int32).view(3, -1),
}
PARTS = [
    (),
    (2,),
    (-1,),
    (slice(1, 3),),
    (slice(2, None),),
    (slice(3, 3),),
    (slice(-2, None),),
    (2, slice(0, 3)),
    (2, 5),
    (slice(None, None, 2),),
    (1, slice(1, None, 2)),
    (slice(1, 3), 4),
    (slice(1, 3), slice(2, 4)),
]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "model.safetensors"
    save_file(TENSORS, path)
    return SafetensorsFile(path)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_is_what_the_index_takes_of_the_tensor(file, part):
    assert file.read("cube", part).equal(TENSORS["cube"][part])


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_read_into_the_room_that_is_given(file, name):
    given = []

    def room(num_bytes):
        given.append(torch.empty(num_bytes, dtype=torch.uint8))
        return given[-1]

    tensor = file.read(name, (), room)
    assert tensor.equal(TENSORS[name])
    assert [tensor.data_ptr()] == [memory.data_ptr() for memory in given]


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_that_torch_has(tmp_path, name):
    tensor = torch.arange(2).to(DTYPES[name])
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    found = SafetensorsFile(tmp_path / "x.safetensors")
    assert found.entries["x"].dtype == name
    assert found.read("x").view(torch.uint8).equal(tensor.view(torch.uint8))


def test_other_dtypes_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"x: values of F4 are not supported; F64, F32"):
        read_tensor(TensorEntry(tmp_path / "x", "F4", (2,), 1), 0)


def test_a_file_that_ends_too_early_says_how_much_is_missing(tmp_path):
    (tmp_path / "x").write_bytes(bytes(10))
    with pytest.raises(EOFError, match="the file ends 4 bytes too early"):
        read_tensor(TensorEntry(tmp_path / "x", "F32", (3,), 12), 2)


def test_what_is_written_to_a_tensor_does_not_reach_its_file(file):
    file.read("large").zero_()
    assert file.read("large").equal(TENSORS["large"])
