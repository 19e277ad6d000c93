import layouts
import pytest
import torch
from checkpoints import DENSE_MODEL, packed_quantization, save, write_mixtral
from number_formats import compressed_integers, four_bit, fp8

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.summary import SERVER_BYTES, experts_that_fit, summarize


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
    ("quantization", "bits", "overhead"),
    [
        (fp8(), 8, 4),
        # A scale in 32 bits for 64 values, a table of 16 and a state, of which the length varies.
        (four_bit(), 4, 2 * 3 * (64 + 80)),
    ],
)
def test_codes_that_no_kernel_takes_need_more_memory_than_disk(make_mixtral, quantization, bits, overhead):
    made = make_mixtral(quantization=quantization, dtype=torch.bfloat16)
    summary, values = summarize(Checkpoint.open(made.directory)), 2 * 3 * 128 * 256
    stored = values * bits // 8 + (values // 64 * 4 if bits == 4 else 0)
    assert all(stored < size <= stored + 2 * 3 * 4 + overhead for size in summary.expert_bytes)
    assert summary.expert_memory_bytes == (2 * values,) * 8
    plain = sum(made.dense[name].nbytes for name in made.dense if ".experts." not in name)
    assert summary.gateway_memory_bytes == plain > summary.gateway_bytes
    memory = SERVER_BYTES + 3 * 2 * values
    assert experts_that_fit(summary, memory) == 3
    assert experts_that_fit(summary, memory - 1) == 2


@pytest.mark.parametrize("quantization", [compressed_integers(), packed_quantization(4, 32), None])
def test_codes_that_stay_codes_need_no_more_memory_than_disk(make_mixtral, quantization):
    summary = summarize(Checkpoint.open(make_mixtral(quantization=quantization).directory))
    assert summary.expert_memory_bytes == summary.expert_bytes
    assert summary.gateway_memory_bytes == summary.gateway_bytes


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
