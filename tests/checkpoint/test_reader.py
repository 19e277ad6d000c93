import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import layouts
import pytest
import torch
from checkpoints import (
    awq_quantization,
    find_spec,
    gptq_quantization,
    packed_quantization,
    several_groups,
    write_mixtral,
)
from safetensors.torch import load_file, save_file

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.errors import CheckpointError
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, StoredWeight

EXPERT = "model.layers.1.block_sparse_moe.experts.5"


@pytest.fixture(scope="module")
def plain(make_mixtral):
    return make_mixtral(dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def packed(make_mixtral):
    return make_mixtral(group_size=32)


def reconfigure(source: Path, directory: Path, **changes: object) -> Checkpoint:
    """Open a copy of a checkpoint whose config.json says something else."""
    shutil.copytree(source, directory, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    return Checkpoint.open(directory)


@pytest.fixture
def broken(packed, tmp_path):
    """A copy of the AWQ checkpoint to damage: call it with a function that changes its tensors in place."""

    def damage(change):
        shutil.copytree(packed.directory, tmp_path, dirs_exist_ok=True)
        tensors = load_file(tmp_path / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        return Checkpoint.open(tmp_path)

    return damage


def test_every_tensor_of_a_plain_checkpoint_is_read_as_written(plain):
    checkpoint = Checkpoint.open(plain.directory)
    specs = list(checkpoint.tensors)
    assert set(checkpoint.files.entries) == set(plain.dense) == {f"{spec.name}.weight" for spec in specs}
    for spec in specs:
        assert checkpoint.tensor(spec).equal(plain.dense[f"{spec.name}.weight"])
    assert checkpoint.weight_format == "bfloat16"
    assert checkpoint.config == plain.config


@pytest.mark.parametrize("group_size", [32, 64, 128, -1])
def test_an_awq_checkpoint_means_the_weights_it_was_made_of(make_mixtral, group_size):
    made = make_mixtral(group_size=128 if group_size == -1 else group_size, intermediate_size=128)
    config = json.loads((made.directory / "config.json").read_text())
    config["quantization_config"]["group_size"] = group_size
    (made.directory / "config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(made.directory)
    expert = checkpoint.expert(1, 5)
    for weight, name in ((expert.w_gate, "w1"), (expert.w_up, "w3"), (expert.w_down, "w2")):
        assert isinstance(weight, StoredWeight)
        assert dequantize(weight).equal(made.dense[f"{EXPERT}.{name}.weight"])
    query = checkpoint.weight(find_spec(checkpoint, "model.layers.0.self_attn.q_proj"))
    assert dequantize(query).equal(made.dense["model.layers.0.self_attn.q_proj.weight"])
    for name in ("model.layers.0.block_sparse_moe.gate", "lm_head"):
        assert isinstance(checkpoint.weight(find_spec(checkpoint, name)), DenseWeight)
    assert checkpoint.weight_format == ("awq 4-bit no groups" if group_size == -1 else f"awq 4-bit g{group_size}")


def test_matrices_of_several_kinds_are_told_apart_by_their_tensors(make_mixtral):
    quantization = several_groups(
        packed_quantization(4, 32, symmetric=False),
        {"q_proj": packed_quantization(4, 32), "w1": packed_quantization(8, -1), "w3": packed_quantization(4, 64)},
    )
    made = make_mixtral(quantization=quantization)
    checkpoint = Checkpoint.open(made.directory)
    for spec in checkpoint.tensors:
        if spec.is_quantizable:
            weight = checkpoint.weight(spec)
            assert isinstance(weight, StoredWeight)
            assert dequantize(weight).equal(made.dense[f"{spec.name}.weight"])
    four, eight = checkpoint.expert(0, 1).w_up, checkpoint.expert(0, 1).w_gate
    assert (four.bits, four.group_size, eight.bits, eight.group_size) == (4, 64, 8, 128)
    assert checkpoint.weight_format == (
        "compressed-tensors 4-bit g32 and compressed-tensors 8-bit no groups and compressed-tensors 4-bit g64"
    )


def test_a_matrix_of_no_kind_that_is_configured_is_named(make_mixtral, tmp_path):
    quantization = several_groups(packed_quantization(4, 32), {"experts.5.w1": packed_quantization(8, 32)})
    made = make_mixtral(quantization=quantization)
    groups = {
        **quantization.config["config_groups"],
        "group_1": packed_quantization(4, 64).config["config_groups"]["group_0"],
    }
    config = {**quantization.config, "config_groups": groups}
    message = (
        r"experts.5.w1.weight_packed is I32 \[256, 32\]; I32 \[256, 16\] would be right for .* 4-bit g32; "
        r"or .*experts.5.w1.weight_packed is .* for compressed-tensors 4-bit g64"
    )
    with pytest.raises(CheckpointError, match=message):
        reconfigure(made.directory, tmp_path, quantization_config=config)


@pytest.mark.parametrize(
    ("part", "replacement", "message"),
    [
        (
            "weight_packed",
            torch.zeros(256, 8, dtype=torch.int32),
            r"w1.weight_packed is I32 \[256, 8\]; I32 \[256, 16\]",
        ),
        (
            "weight_scale",
            torch.ones(4, 256),
            r"w1.weight_scale is F32 \[4, 256\]; floating point \[256, groups\] would",
        ),
        ("weight_scale", torch.ones(256, 2), "w1 has groups of 64; the configuration says 32"),
        (
            "weight_scale",
            torch.ones(256, 4).int(),
            r"w1: weight_scale is int32 \[256, 4\]; floating point \[256, groups\]",
        ),
        ("weight_scale", torch.full((256, 4), math.nan), "w1.weight_scale holds NaN or Inf"),
        ("weight_zero_point", torch.ones(256, 4).char(), r"w1: weight_zero_point is int8 \[256, 4\]; int32 \[32, 4\]"),
        ("weight_g_idx", torch.zeros(128).int(), "w1: g_idx does not put 32 input features into each of 4 groups"),
        ("weight_shape", torch.tensor([256, 64]), r"w1: weight_shape says \[256, 64\]; the codes .* are \[256, 128\]"),
        ("weight_zero_point", None, "tensor .*w1.weight_zero_point is in none of"),
        ("weight_g_idx", None, "tensor .*w1.weight_g_idx is in none of"),
    ],
)
def test_tensors_of_compressed_tensors_that_do_not_fit_are_named(tmp_path, part, replacement, message):
    write_mixtral(tmp_path, quantization=packed_quantization(4, 32, symmetric=False, is_ordered=True))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[f"{EXPERT}.w1.{part}"]
    if replacement is not None:
        tensors[f"{EXPERT}.w1.{part}"] = replacement
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path).expert(1, 5)


def test_codes_of_another_method_than_configured_are_named(packed, tmp_path):
    with pytest.raises(CheckpointError, match=r"tensor \S+q_proj.weight_packed is in none of .* \S+q_proj.qweight"):
        reconfigure(packed.directory, tmp_path, quantization_config=packed_quantization(4, 32).config)


def test_shards_hold_the_same_tensors_as_one_file(make_mixtral):
    whole = make_mixtral(group_size=32)
    shards = Checkpoint.open(make_mixtral(group_size=32, shards=3).directory)
    assert len({entry.file for entry in shards.files.entries.values()}) == 3
    expected = load_file(whole.directory / "model.safetensors")
    assert set(shards.files.entries) == set(expected)
    assert all(shards.files.read(name).equal(tensor) for name, tensor in expected.items())


def test_a_missing_tensor_is_named_with_its_neighbours(broken):
    near = "model.embed_tokens.weight, model.layers.0.block_sparse_moe.experts.0.w1.qweight, "
    with pytest.raises(
        CheckpointError, match=rf"model.norm.weight is in none of model.safetensors; nearest to it is {near}"
    ):
        broken(lambda tensors: tensors.pop("model.norm.weight"))


def test_a_missing_layer_is_named(plain, tmp_path):
    with pytest.raises(CheckpointError, match=r"tensor model.layers.2\S+ is in none of model.safetensors"):
        reconfigure(plain.directory, tmp_path, num_hidden_layers=3)


def test_a_tensor_of_another_shape_names_file_found_and_expected(plain, packed, tmp_path):
    checkpoint = Checkpoint.open(plain.directory)
    where = r"model.safetensors: model.norm.weight is \[128\]; \[64\] would be right"
    with pytest.raises(CheckpointError, match=where):
        checkpoint.tensor(replace(checkpoint.tensors.ends["final_norm"], shape=(64,)))
    with pytest.raises(CheckpointError, match=r"w1.weight is \[256, 128\]; \[512, 128\] would be right"):
        reconfigure(plain.directory, tmp_path / "plain", intermediate_size=512)
    with pytest.raises(CheckpointError, match=r"w1.qweight is I32 \[128, 32\]; I32 \[128, 64\] would be right for awq"):
        reconfigure(packed.directory, tmp_path / "packed", intermediate_size=512)


def test_integers_are_no_weights(broken):
    with pytest.raises(CheckpointError, match=r"model.norm.weight is I64; F32, F16 or BF16 would be right"):
        broken(lambda tensors: tensors.update({"model.norm.weight": torch.ones(128, dtype=torch.int64)}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scales_that_are_not_finite_are_found_when_read(broken, value):
    def change(tensors):
        tensors[f"{EXPERT}.w2.scales"][3, 7] = value

    checkpoint = broken(change)
    with pytest.raises(CheckpointError, match=f"{EXPERT}.w2.scales holds NaN or Inf"):
        checkpoint.expert(1, 5)
    checkpoint.expert(1, 4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["model.norm", "model.embed_tokens", "lm_head", f"{EXPERT.rpartition('.experts')[0]}.gate"]
)
def test_plain_values_that_are_not_finite_are_found_when_read(broken, name, value):
    checkpoint = broken(lambda tensors: tensors[f"{name}.weight"].view(-1)[5:6].fill_(value))
    with pytest.raises(
        CheckpointError, match=rf"model.safetensors: {name}.weight holds NaN or Inf; the file is broken"
    ):
        checkpoint.tensor(find_spec(checkpoint, name))


@pytest.mark.parametrize(
    ("part", "replacement", "message"),
    [
        ("qzeros", torch.zeros(4, 16, dtype=torch.int32), r"qzeros is int32 \[4, 16\]; int32 \[4, 32\] would be"),
        ("qzeros", torch.zeros(4, 32, dtype=torch.int64), "qzeros is int64"),
        ("scales", torch.ones(4, 255).half(), r"scales is F16 \[4, 255\]; floating point \[groups, 256\]"),
        ("scales", torch.tensor(1.0), r"scales is F32 \[\]; floating point \[groups, 256\]"),
        ("scales", torch.ones(4, 256, dtype=torch.int32), r"scales is int32 \[4, 256\]; floating point"),
        (
            "qweight",
            torch.zeros(64, 32, dtype=torch.int32),
            r"qweight is I32 \[64, 32\]; I32 \[128, 32\] would be right",
        ),
        ("qweight", torch.zeros(128, 32), r"qweight is F32 \[128, 32\]; I32 \[128, 32\] would be right"),
    ],
)
def test_packed_tensors_that_do_not_fit_are_named(broken, part, replacement, message):
    with pytest.raises(CheckpointError, match=f"{EXPERT}.w1.*{message}"):
        broken(lambda tensors: tensors.update({f"{EXPERT}.w1.{part}": replacement})).expert(1, 5)


def test_a_missing_part_of_a_packed_matrix_is_named(broken):
    with pytest.raises(CheckpointError, match=f"tensor {EXPERT}.w1.qzeros is in none of model.safetensors"):
        broken(lambda tensors: tensors.pop(f"{EXPERT}.w1.qzeros"))


def test_groups_of_another_size_than_configured_are_refused(packed, tmp_path):
    shutil.copytree(packed.directory, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["group_size"] = 64
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="q_proj has groups of 32; the configuration says 64"):
        Checkpoint.open(tmp_path)
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"q_proj.qweight is there but no configuration names a quant"):
        Checkpoint.open(tmp_path)


def test_a_directory_without_config_is_refused(plain, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is not a directory; give the directory that holds config.json"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config.json is not a directory"):
        Checkpoint.open(plain.directory / "config.json")
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[1]", "holds list; a JSON object would be right"),
        ("\ud800", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
    ids=["cut off", "empty", "list", "not UTF-8", "deep"],
)
def test_a_config_that_is_no_json_object_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=f"config.json {message}"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("width", "group_size"), [(128, 128), (192, 64), (96, 32), (80, 80)])
def test_plain_weights_are_rounded_while_loading(make_mixtral, bits, width, group_size):
    made = make_mixtral(dtype=torch.bfloat16, intermediate_size=width)
    checkpoint = Checkpoint.open(made.directory, round_to_bits=bits)
    weight = checkpoint.expert(1, 5).w_down
    assert isinstance(weight, QuantizedWeight)
    assert (weight.bits, weight.group_size) == (bits, group_size)
    rounded = round_to_nearest(made.dense[f"{EXPERT}.w2.weight"], bits, group_size)
    assert dequantize(weight).equal(dequantize(rounded))
    assert isinstance(checkpoint.weight(find_spec(checkpoint, "model.layers.0.self_attn.q_proj")), QuantizedWeight)
    for name in ("lm_head", "model.embed_tokens", "model.layers.0.block_sparse_moe.gate"):
        assert isinstance(checkpoint.weight(find_spec(checkpoint, name)), DenseWeight)
    assert checkpoint.weight_format == f"int{bits} of bfloat16"


def test_what_is_quantized_already_is_not_rounded_again(packed):
    with pytest.raises(CheckpointError, match="is awq 4-bit g32 already and cannot be quantized while loading"):
        Checkpoint.open(packed.directory, round_to_bits=4)


@pytest.mark.parametrize("layout", [layouts.fused_hf, layouts.mistral_stacked])
def test_a_fused_tensor_without_the_expert_is_named(tmp_path, layout):
    made = write_mixtral(tmp_path, num_local_experts=2)
    layout(made)
    with pytest.raises(CheckpointError, match=r"holds no expert 2|is \[0, \d+\]|is \[\d+, 0\]"):
        Checkpoint.open(tmp_path).expert(0, 2)


def test_tensors_come_to_the_device_that_is_named(plain):
    checkpoint = Checkpoint.open(plain.directory)
    elsewhere, query = checkpoint.on(torch.device("meta")), checkpoint.tensors.layer(0)["q"]
    assert (elsewhere.tensor(query).device.type, checkpoint.tensor(query).device.type) == ("meta", "cpu")
    assert elsewhere.expert(1, 5).w_up.data.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize(
    "quantization",
    [
        awq_quantization(64),
        gptq_quantization(3, 64),
        gptq_quantization(3, 64, desc_act=True),
        packed_quantization(4, 64, symmetric=False, is_ordered=True),
        packed_quantization(8, -1),
    ],
    ids=["awq", "gptq", "act-order", "pack-quantized", "pack-quantized by channel"],
)
def test_experts_unpacked_on_a_gpu_are_those_unpacked_on_the_cpu(make_mixtral, quantization):
    checkpoint = Checkpoint.open(make_mixtral(quantization=quantization).directory)
    expected, found = checkpoint.expert(1, 5), checkpoint.on(torch.device("cuda", 0)).expert(1, 5)
    for name in ("w_gate", "w_up", "w_down"):
        one, other = getattr(expected, name), getattr(found, name)
        for part in ("codes", "scales", "zeros"):
            assert getattr(other, part).is_cuda
            assert torch.equal(getattr(one, part), getattr(other, part).cpu())
        assert one.perm is None or torch.equal(one.perm, other.perm.cpu())
