import pytest
import torch
from safetensors.torch import load_file

from expertmesh.checkpoint.safetensors_file import SafetensorsFile
from expertmesh.checkpoint.writer import replacing, sha256_of, writing
from expertmesh.errors import CheckpointError

TENSORS = {
    "codes": torch.arange(-6, 6, dtype=torch.int32).view(3, 4),
    "narrow": torch.arange(8, dtype=torch.bfloat16).view(2, 4).T,
    "half": torch.arange(4).half(),
    "none": torch.empty(0, 5),
    "scalar": torch.tensor(2.5),
}


def test_safetensors_reads_what_is_written(tmp_path):
    path = tmp_path / "x.safetensors"
    with writing(path, len(TENSORS), {"format": "pt", "who": "me"}) as writer:
        for name, tensor in TENSORS.items():
            writer.add(name, tensor)
    read = load_file(path)
    assert set(read) == set(TENSORS)
    assert all(read[name].equal(tensor) for name, tensor in TENSORS.items())
    assert SafetensorsFile(path).metadata == {"format": "pt", "who": "me"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "x.safetensors"
    for before in (None, b"old"):
        if before:
            path.write_bytes(before)
        with pytest.raises(RuntimeError), writing(path, 1, {}) as writer:
            writer.add("half", TENSORS["half"])
            raise RuntimeError
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_dtype_that_the_format_cannot_hold_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write x: torch.complex64"), writing(tmp_path / "a", 1, {}) as w:
        w.add("x", torch.zeros(1, dtype=torch.complex64))


def test_tensors_lie_where_they_can_be_read_in_whatever_order_they_come(tmp_path):
    tensors = {
        "bytes": torch.arange(79, dtype=torch.uint8),
        "half": torch.tensor([1.5]).half(),
        "wide": torch.tensor([3, 4]),
        "floats": torch.arange(3.0),
        "fp8": torch.arange(5.0).to(torch.float8_e4m3fn),
        "scalar": torch.tensor(7, dtype=torch.int8),
    }
    with writing(tmp_path / "a", len(tensors), {}) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    read = load_file(tmp_path / "a")
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in read.items()} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()
    }
    starts = {name: SafetensorsFile(tmp_path / "a")._offsets[name][0] for name in tensors}
    assert all(starts[name] % tensor.itemsize == 0 for name, tensor in tensors.items())


def test_more_tensors_than_were_announced_do_not_damage_the_file(tmp_path):
    with pytest.raises(CheckpointError, match="the header takes"), writing(tmp_path / "a", 1, {}) as writer:
        for i in range(50):
            writer.add(f"{'x' * 100}{i}", torch.zeros(1))
    assert not list(tmp_path.iterdir())


def test_replacing_shows_the_file_only_at_the_end(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
