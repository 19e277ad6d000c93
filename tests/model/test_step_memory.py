"""The estimate of what recorded steps take, beside what they make."""

from dataclasses import replace

import pytest
import torch
from device_ffn import on_device
from torch.utils._python_dispatch import TorchDispatchMode

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.kernels.block_attention import BlockContexts
from expertmesh.kernels.triton import attention, attention_kernels, kernels
from expertmesh.kernels.triton.ahead import FORMATS, device_of
from expertmesh.kernels.triton.backend import TritonExperts, TritonLinear
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.model.stages import Stages
from expertmesh.model.static_steps import DeviceStep, HostStep
from expertmesh.model.step_memory import attention_bytes, buffer_bytes, expert_bytes, head_bytes, plan_steps

MAX_BLOCKS = 24


class Allocations(TorchDispatchMode):
    """Adds up the bytes of tensors that are made; views and what is written in place make none."""

    MAKING = ("zeros", "empty", "arange", "new_empty", "new_zeros", "empty_like")

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        if operation.overloadpacket.__name__ in self.MAKING:
            self.num_bytes += made.nbytes
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 8, 64])
@pytest.mark.parametrize("has_experts", [False, True])
def test_buffers_are_counted_to_the_byte(make_mixtral, make_rig, dtype, num_rows, has_experts):
    rig = make_rig(make_mixtral().directory, dtype)
    experts = on_device(rig.experts, ExpertLoadCounter(rig.config.num_layers, rig.config.num_experts))
    with Allocations() as made:
        stages = Stages(rig.decoder, rig.cache, num_rows, MAX_BLOCKS)
        DeviceStep(stages, experts, lambda work: work) if has_experts else HostStep(stages, lambda work: work)
    assert made.num_bytes == buffer_bytes(rig.config, dtype, num_rows, MAX_BLOCKS, has_experts)


class Silent:
    """Stands for a kernel."""

    def __getitem__(self, grid):
        return lambda *args, **options: None


@pytest.fixture
def mixtral(make_mixtral, monkeypatch):
    """Mixtral's widths, with kernels that compute nothing."""
    for name in ("schedule", "grouped_linear", "combine"):
        monkeypatch.setattr(kernels, name, Silent())
    for name in ("attend_split", "combine_splits"):
        monkeypatch.setattr(attention_kernels, name, Silent())
    config = Checkpoint.open(make_mixtral().directory).model
    widths = {"hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000}
    return replace(config, **widths, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128, num_experts=8)


def without_values(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def matrix(num_out: int, num_in: int) -> TritonLinear:
    return TritonLinear(FORMATS["4 bits g128"].lay_out(num_out, num_in), device_of("sm_90"))


@pytest.mark.parametrize("num_rows", [1, 16, 256, 512])
def test_scratch_of_each_part_is_at_least_what_it_makes_and_not_much_more(mixtral, num_rows):
    device, form = device_of("sm_90"), FORMATS["4 bits g128"]
    experts = TritonExperts(form.lay_out(2 * 14336, 4096), form.lay_out(4096, 14336), device)
    rows, total = without_values(num_rows, 4096), without_values(num_rows, 4096, dtype=torch.float32)
    slots, weights = without_values(num_rows, 2, dtype=torch.int32), without_values(num_rows, 2, dtype=torch.float32)
    with Allocations() as of_experts:
        experts.run_chosen(rows, slots, weights, total)
    query, keys = without_values(num_rows, 32, 128), without_values(64 * 16, 8, 128)
    tables = without_values(num_rows, 2048, dtype=torch.int32)
    lengths, firsts = without_values(num_rows, dtype=torch.int32), without_values(num_rows + 1, dtype=torch.int32)
    qkv, output, gate, head = matrix(6144, 4096), matrix(4096, 4096), matrix(8, 4096), matrix(32000, 4096)
    with Allocations() as of_attention:
        qkv(rows)
        torch.empty_like(query)
        attention.attend_blocks(query, keys, keys, BlockContexts(tables, lengths, firsts, 16, None, is_decode=True))
        output(rows)
        gate(rows)
    with Allocations() as of_head:
        head(rows)
    slack = 2**20
    for made, bound in (
        (of_experts.num_bytes, expert_bytes(mixtral, torch.bfloat16, num_rows)),
        (of_attention.num_bytes, attention_bytes(mixtral, torch.bfloat16, num_rows)),
        (of_head.num_bytes, head_bytes(mixtral, torch.bfloat16, num_rows) - num_rows * 32000 * 4),
    ):
        assert made <= bound + slack and bound <= 2.5 * made + slack


def test_steps_of_all_sizes_are_told_and_none_take_nothing(mixtral):
    assert plan_steps(mixtral, torch.bfloat16, [], 2048, 1, True).total == 0
    small, great = (plan_steps(mixtral, torch.bfloat16, sizes, 2048, 1, True) for sizes in ([1, 2], [1, 2, 4, 8]))
    assert small.buffers < great.buffers and small.scratch < great.scratch and small.recordings < great.recordings
    twice = plan_steps(mixtral, torch.bfloat16, [1, 2], 2048, 2, True)
    assert (twice.buffers, twice.scratch) == (2 * small.buffers, small.scratch)
