import layouts
import pytest
import torch
from checkpoints import DENSE_MODEL, packed_quantization, save, write_mixtral

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.summary import summarize


@pytest.mark.parametrize("shards", [1, 3])
def test_bytes_are_added_up_by_who_loads_them(make_mixtral, shards):
    made = make_mixtral(dtype=torch.bfloat16, shards=shards, num_local_experts=3)
    summary = summarize(Checkpoint.open(made.directory))
    expert = 2 * 3 * 128 * 256 * 2
    total = sum(tensor.nbytes for tensor in made.dense.values())
    assert summary.expert_bytes == (expert, expert, expert)
    assert summary.total_bytes == total
    assert summary.gateway_bytes == total - 3 * expert
    assert summary.num_tensors == len(made.dense)
    assert summary.weight_format == "bfloat16"


def test_packed_experts_count_as_they_are_stored(make_mixtral):
    summary = summarize(Checkpoint.open(make_mixtral(group_size=32).directory))
    values = 2 * 3 * 128 * 256
    assert summary.expert_bytes == (values // 2 + values // 32 * (2 + 0.5),) * 8
    assert summary.weight_format == "awq 4-bit g32"


def test_each_tensor_of_a_packed_expert_counts(make_mixtral):
    summary = summarize(
        Checkpoint.open(make_mixtral(quantization=packed_quantization(8, 32, symmetric=False)).directory)
    )
    values, shapes = 2 * 3 * 128 * 256, 2 * 3 * 16
    assert summary.expert_bytes == (values + values // 32 * (2 + 1) + shapes,) * 8
    assert summary.weight_format == "compressed-tensors 8-bit g32"


@pytest.mark.parametrize(
    "layout", [layouts.newer_hf, layouts.fused_hf, layouts.mistral, layouts.mistral_stacked, layouts.torch_bin]
)
def test_the_names_of_tensors_change_no_number_of_bytes(tmp_path, layout):
    made = write_mixtral(tmp_path, num_local_experts=3)
    before = summarize(Checkpoint.open(tmp_path))
    layout(made)
    after = summarize(Checkpoint.open(tmp_path))
    assert (after.expert_bytes, after.gateway_bytes) == (before.expert_bytes, before.gateway_bytes)


@pytest.mark.parametrize("layout", [None, layouts.mistral])
def test_the_ffn_of_a_dense_model_is_expert_0(tmp_path, layout):
    made = write_mixtral(tmp_path, **DENSE_MODEL)
    if layout:
        layout(made)
    assert summarize(Checkpoint.open(tmp_path)).expert_bytes == (2 * 3 * 128 * 256 * 4,)


def test_what_no_expert_needs_counts_for_the_gateway(tmp_path):
    made = write_mixtral(tmp_path)
    before = summarize(Checkpoint.open(tmp_path))
    save(tmp_path, {**made.dense, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)})
    assert summarize(Checkpoint.open(tmp_path)).gateway_bytes == before.gateway_bytes + 64
