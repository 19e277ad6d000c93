"""Damaged, mislabelled and malicious checkpoints: an error that says so, or exactly the weights that were written."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from checkpoints import awq_quantization, gptq_quantization, packed_quantization, write_mixtral
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from number_formats import compressed_integers, four_bit, fp8
from safetensors.torch import load_file, save_file

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.errors import CheckpointError
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.weights import DenseWeight, Weight

SMALL = {"num_local_experts": 2, "vocab_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
FORMATS = {
    "plain": None,
    "awq": awq_quantization(32),
    "gptq": gptq_quantization(4, 32, desc_act=True, sym=False),
    "gptq 3-bit": gptq_quantization(3, 32, sym=True),
    "compressed-tensors": packed_quantization(4, 32, symmetric=False, is_ordered=True),
    "fp8": fp8((32, 32), "weight_scale_inv"),
    "int8": compressed_integers((1, 32), symmetric=False),
    "nf4": four_bit(is_nested=True),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
often = settings(
    max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module", params=FORMATS)
def made(request, tmp_path_factory):
    return write_mixtral(tmp_path_factory.mktemp("model"), quantization=FORMATS[request.param], **SMALL)


@pytest.fixture
def copy(made, tmp_path):
    shutil.copytree(made.directory, tmp_path, dirs_exist_ok=True)
    return tmp_path


def values(weight: Weight) -> torch.Tensor:
    return weight.data if isinstance(weight, DenseWeight) else dequantize(weight)


def load(directory: Path) -> dict[str, torch.Tensor]:
    """Read all that a gateway and expert servers would read."""
    checkpoint = Checkpoint.open(directory)
    return {
        f"{spec.name}.weight": values(checkpoint.weight(spec)) if len(spec.shape) == 2 else checkpoint.tensor(spec)
        for spec in checkpoint.tensors
    }


def is_alike(tensor: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> bool:
    """Whether nothing tells a tensor from one of this shape and dtype."""
    both_float = dtype.is_floating_point and tensor.is_floating_point()
    return list(tensor.shape) == list(shape) and (tensor.dtype == dtype or both_float)


def assert_refused_or_right(directory: Path, made) -> None:
    try:
        loaded = load(directory)
    except CheckpointError as error:
        assert str(error)
        return
    assert all(tensor.float().equal(made.dense[name].float()) for name, tensor in loaded.items())


@often
@given(data=st.data())
def test_a_configuration_with_a_changed_value(made, copy, data):
    file = copy / data.draw(st.sampled_from([path.name for path in made.directory.glob("*config.json")]))
    original = json.loads((made.directory / file.name).read_text())
    key = data.draw(st.sampled_from(sorted(original)))
    # What these numbers mean cannot be told from the weights: another one is another model.
    meaning = {"sym", "checkpoint_format", "torch_dtype"}
    file.write_text(json.dumps({**original, key: data.draw(JSON)}))
    try:
        assert_refused_or_right(copy, made)
    except AssertionError:
        assert key in meaning
    finally:
        file.write_text(json.dumps(original))


@often
@given(data=st.data())
def test_a_tensor_of_another_shape_or_dtype(made, copy, data):
    tensors = load_file(made.directory / "model.safetensors")
    name = data.draw(st.sampled_from(sorted(tensors)))
    original = tensors[name]
    dtype = data.draw(st.sampled_from([torch.int32, torch.float32, torch.float16, torch.int64, torch.uint8]))
    shape = data.draw(st.lists(st.integers(0, 130), max_size=3) | st.just(list(original.shape)))
    assume(not is_alike(original, shape, dtype))
    save_file({**tensors, name: torch.ones(shape, dtype=dtype)}, copy / "model.safetensors")
    with pytest.raises(CheckpointError):
        load(copy)


@often
@given(data=st.data())
def test_tensors_that_changed_places(made, copy, data):
    """Two tensors under each other's names fit only where their shapes do; then nothing can tell."""
    tensors = load_file(made.directory / "model.safetensors")
    one, other = data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=2, max_size=2, unique=True))
    assume(not is_alike(tensors[one], tensors[other].shape, tensors[other].dtype))
    save_file({**tensors, one: tensors[other], other: tensors[one]}, copy / "model.safetensors")
    assert_refused_or_right(copy, made)


@often
@given(data=st.data())
def test_a_missing_tensor(made, copy, data):
    tensors = load_file(made.directory / "model.safetensors")
    del tensors[data.draw(st.sampled_from(sorted(tensors)))]
    save_file(tensors, copy / "model.safetensors")
    assert_refused_or_right(copy, made)


@often
@given(position=st.floats(0, 1, exclude_max=True))
def test_a_file_that_ends_early(made, copy, position):
    raw = (made.directory / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(raw[: int(position * len(raw))])
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load(copy)
