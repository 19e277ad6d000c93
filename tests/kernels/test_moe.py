import numpy as np
import pytest
import torch

from expertmesh.kernels.moe import MAX_ROWS_TO_LOOP, add_rows, run_chosen
from expertmesh.kernels.reference import ReferenceBackend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights

NUM_SLOTS = 4


@pytest.fixture(scope="module")
def ffn():
    generator = torch.Generator().manual_seed(0)
    shapes = ((12, 8), (12, 8), (8, 12))
    experts = [
        ExpertWeights(*(DenseWeight(torch.randn(shape, generator=generator) / 4) for shape in shapes))
        for _ in range(NUM_SLOTS)
    ]
    return ReferenceBackend(torch.device("cpu")).experts(experts)


def run_one_by_one(ffn, hidden, topk_slots, topk_weights) -> torch.Tensor:
    """Add up (row, choice) by (row, choice)."""
    output = torch.zeros_like(hidden)
    for row, (slots, weights) in enumerate(zip(topk_slots.tolist(), torch.from_numpy(topk_weights), strict=True)):
        for slot, weight in zip(slots, weights, strict=True):
            if slot >= 0:
                counts = [int(slot == other) for other in range(NUM_SLOTS)]
                output[row] += ffn(hidden[row : row + 1], counts, weight[None])[0]
    return output


@pytest.mark.parametrize(
    "topk_slots",
    [[[0, 1]], [[3, 0], [1, 3], [0, 3], [3, 2]], [[-1, 2], [2, -1], [-1, -1]], [[-1, -1]], torch.empty(0, 2).tolist()],
    ids=str,
)
def test_equals_adding_up_one_by_one(ffn, topk_slots):
    slots = np.array(topk_slots, dtype=np.int64).reshape(-1, 2)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(len(slots), 8, generator=generator)
    weights = torch.rand(slots.shape, generator=generator).numpy()
    expected = run_one_by_one(ffn, hidden, slots, weights)
    output, out = run_chosen(ffn, NUM_SLOTS, hidden, slots, weights), torch.full(expected.shape, torch.nan)
    torch.testing.assert_close(output, expected)
    assert run_chosen(ffn, NUM_SLOTS, hidden, slots, weights, out) is out
    assert torch.equal(out, output)


def test_the_order_of_choices_does_not_change_a_bit(ffn):
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(6, 8, generator=generator)
    slots = np.array([[0, 1], [1, 2], [3, 0], [2, 3], [1, 0], [3, 1]])
    weights = torch.rand(slots.shape, generator=generator).numpy()
    output = run_chosen(ffn, NUM_SLOTS, hidden, slots, weights)
    assert run_chosen(ffn, NUM_SLOTS, hidden, slots[:, ::-1], weights[:, ::-1]).equal(output)


@pytest.mark.parametrize("num_rows", [0, 1, 3, MAX_ROWS_TO_LOOP, MAX_ROWS_TO_LOOP + 1, 40])
def test_rows_are_added_in_their_order(num_rows):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randint(5, (num_rows,), generator=generator)
    values = torch.randn(num_rows, 64, generator=generator)
    expected = torch.ones(5, 64)
    for row, value in zip(rows.tolist(), values, strict=True):
        expected[row] += value
    assert add_rows(torch.ones(5, 64), rows, values).equal(expected)
