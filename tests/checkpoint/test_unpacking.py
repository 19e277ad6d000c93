"""Matrices of the kinds that are unpacked or scaled, and quantized gates, through a checkpoint."""

import pytest
import torch
from checkpoints import find_spec, gptq_quantization, save, write_mixtral
from number_formats import also, compressed_integers, four_bit, fp8, llm_int8
from safetensors.torch import load_file

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.errors import CheckpointError
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.weights import DenseWeight, Weight

EXPERT = "model.layers.1.block_sparse_moe.experts.5"


def values(weight: Weight) -> torch.Tensor:
    return weight.data if isinstance(weight, DenseWeight) else dequantize(weight)


@pytest.mark.parametrize(
    ("quantization", "part", "replacement", "message"),
    [
        (fp8(), "weight", torch.zeros(256, 128).byte(), r"w1.weight is U8 \[256, 128\]; F8_E4M3 \[256, 128\] would be"),
        (fp8(), "weight", torch.zeros(256, 128).bfloat16(), r"w1.weight is BF16 \[256, 128\]; F8_E4M3"),
        (
            fp8(),
            "weight_scale",
            torch.ones(256, 1),
            r"w1.weight_scale is F32 \[256, 1\]; floating point \[1, 1\] would be",
        ),
        (fp8(), "weight_scale", torch.tensor(torch.nan), "w1.weight_scale holds NaN or Inf; the file is broken"),
        (fp8(), "weight_scale", torch.tensor(1), r"w1: scales is int64 \[\]; floating point"),
        (
            four_bit(),
            "weight",
            torch.zeros(9, 1).byte(),
            r"w1.weight is U8 \[9, 1\]; 16384 bytes would be right for bit",
        ),
        (four_bit(), "weight.absmax", torch.ones(9), r"w1: absmax is float32 \[9\]; floating point \[512\] would be"),
        (
            llm_int8(),
            "SCB",
            torch.ones(255),
            r"w1.SCB is F32 \[255\]; floating point \[256, 1\] would be right for bit",
        ),
        (llm_int8(), "weight_format", torch.tensor(1), "w1: weight_format is 1; 0, row by row, would be right"),
    ],
)
def test_numbers_that_do_not_fit_are_named(make_mixtral, quantization, part, replacement, message):
    made = make_mixtral(quantization=quantization)
    tensors = load_file(made.directory / "model.safetensors")
    save(made.directory, {**tensors, f"{EXPERT}.w1.{part}": replacement})
    with pytest.raises(CheckpointError, match=f"model.safetensors: {EXPERT}.{message}"):
        Checkpoint.open(made.directory).expert(1, 5)


def test_floats_without_scales_are_named(make_mixtral):
    made = make_mixtral(quantization=fp8())
    tensors = load_file(made.directory / "model.safetensors")
    del tensors[f"{EXPERT}.w1.weight_scale"]
    save(made.directory, tensors)
    with pytest.raises(CheckpointError, match=r"w1.weight is F8_E4M3; F32, F16 or BF16 would be right"):
        Checkpoint.open(made.directory)


GATE = "model.layers.1.block_sparse_moe.gate"


@pytest.mark.parametrize("quantization", [gptq_quantization(4, 32, sym=False), fp8()])
def test_a_gate_that_is_quantized_is_read_as_values(make_mixtral, quantization):
    made = make_mixtral(quantization=also(quantization, "gate.weight"))
    checkpoint = Checkpoint.open(made.directory)
    assert checkpoint.tensor(find_spec(checkpoint, GATE)).equal(made.dense[f"{GATE}.weight"])


def test_a_bias_of_a_quantized_gate_is_refused(make_mixtral):
    quantization = gptq_quantization(4, 32, biases=torch.ones)
    checkpoint = Checkpoint.open(make_mixtral(quantization=also(quantization, "gate.weight")).directory)
    with pytest.raises(CheckpointError, match=f"{GATE}.bias is not zero"):
        checkpoint.tensor(find_spec(checkpoint, GATE))


def test_a_quantized_gate_that_holds_no_numbers_is_refused(make_mixtral):
    made = make_mixtral(quantization=also(fp8(), "gate.weight"))
    tensors = load_file(made.directory / "model.safetensors")
    tensors[f"{GATE}.weight"] = torch.full((8, 128), torch.nan).to(torch.float8_e4m3fn)
    save(made.directory, tensors)
    checkpoint = Checkpoint.open(made.directory)
    with pytest.raises(CheckpointError, match=f"{GATE}.weight holds NaN or Inf"):
        checkpoint.tensor(find_spec(checkpoint, GATE))


@pytest.mark.parametrize("quantization", [fp8(), compressed_integers(), four_bit(is_nested=True)])
def test_files_of_torch_save_may_hold_floats_and_integers(tmp_path, quantization):
    made = write_mixtral(tmp_path, quantization=quantization)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert values(Checkpoint.open(tmp_path).expert(1, 5).w_up).equal(made.dense[f"{EXPERT}.w3.weight"])


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", [fp8((48, 80)), compressed_integers(), llm_int8(), four_bit(is_nested=True)])
def test_matrices_unpacked_on_a_gpu_are_those_unpacked_on_the_cpu(make_mixtral, quantization):
    checkpoint = Checkpoint.open(make_mixtral(quantization=quantization).directory)
    expected, found = checkpoint.expert(1, 5), checkpoint.on(torch.device("cuda", 0)).expert(1, 5)
    assert values(found.w_up).is_cuda
    assert values(found.w_up).cpu().equal(values(expected.w_up))
