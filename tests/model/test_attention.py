"""Attention as the decoder runs it, on the C kernels beside torch."""

import pytest
import torch
from checkpoints import DENSE_MODEL, OLMOE, QWEN3_MOE

from expertmesh.kernels.cpu import CpuBackend
from expertmesh.model.attention import plan_contexts
from expertmesh.model.batch import StepBatch


def make_batch(query_lens: tuple[int, ...], context_lens: tuple[int, ...], block_tables: list[list[int]]) -> StepBatch:
    rows = torch.arange(sum(query_lens))
    return StepBatch(rows, rows, rows, query_lens, context_lens, torch.tensor(block_tables), rows)


def test_a_step_says_what_each_sequence_sees_and_no_block_that_is_not_needed():
    batch = make_batch((1, 3, 1), (5, 9, 2), [[7, 2, 0, 0], [4, 9, 1, 0], [5, 0, 0, 0]])
    contexts = plan_contexts(batch, block_size=4)
    assert contexts.slots[0, :5].tolist() == [28, 29, 30, 31, 8]
    assert contexts.slots[1].tolist() == [16, 17, 18, 19, 36, 37, 38, 39, 4]
    assert contexts.slots[2, :2].tolist() == [20, 21]
    assert contexts.sequences.tolist() == [[0, 1, 5], [1, 3, 9], [4, 1, 2]]
    assert contexts.window == 9


def test_a_window_is_kept():
    assert plan_contexts(make_batch((1, 1), (3, 4), [[1], [2]]), block_size=4, window=2).window == 2


@pytest.mark.parametrize("sizes", [[30], [13, 17], [1] * 30, [10, 1, 1, 18]])
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"head_dim": 24, "num_key_value_heads": 1},
        {**DENSE_MODEL, "sliding_window": 7},
        {**QWEN3_MOE, "num_hidden_layers": 1},
        {**OLMOE, "num_hidden_layers": 1},
    ],
    ids=["mixtral", "lone key-value head", "window", "qwen3_moe", "olmoe"],
)
@pytest.mark.parametrize("is_native", [True, False], ids=["native", "torch"])
def test_chunks_on_the_cpu_equal_the_whole_on_the_reference(make_mixtral, make_rig, sizes, overrides, is_native):
    directory = make_mixtral(**overrides).directory
    tokens, other = torch.randint(0, 512, (2, 30), generator=torch.Generator().manual_seed(1)).tolist()
    whole = make_rig(directory).step({0: tokens})
    rig = make_rig(directory, backend=CpuBackend(is_native))
    rig.step({1: other[:3]})
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    steps = [
        rig.step({0: tokens[start : start + size], 1: [other[i]]})
        for i, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    torch.testing.assert_close(torch.cat([step[:-1] for step in steps]), whole, atol=2e-5, rtol=0)
