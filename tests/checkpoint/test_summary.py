import pytest
import torch

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.summary import summarize


@pytest.mark.parametrize("shards", [1, 3])
def test_bytes_are_added_up_by_who_loads_them(make_mixtral, shards):
    made = make_mixtral(dtype=torch.bfloat16, shards=shards, num_local_experts=3)
    summary = summarize(Checkpoint.open(made.directory), 3)
    expert = 2 * 3 * 128 * 256 * 2
    total = sum(tensor.nbytes for tensor in made.dense.values())
    assert summary.expert_bytes == (expert, expert, expert)
    assert summary.total_bytes == total
    assert summary.gateway_bytes == total - 3 * expert
    assert summary.num_tensors == len(made.dense)
    assert summary.weight_format == "bfloat16"


def test_packed_experts_count_as_they_are_stored(make_mixtral):
    summary = summarize(Checkpoint.open(make_mixtral(group_size=32).directory), 8)
    values = 2 * 3 * 128 * 256
    assert summary.expert_bytes == (values // 2 + values // 32 * (2 + 0.5),) * 8
    assert summary.weight_format == "awq 4-bit g32"
