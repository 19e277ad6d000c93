"""Who computes what, and sums of products, against the torch twins: interpreted on the CPU, and on a GPU if one is."""

import pytest
import torch
from triton_cases import combined, routing_differences

E = 8


def random_slots(num_rows: int, num_chosen: int, num_experts: int, elsewhere: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_rows)
    slots = torch.rand(num_rows, num_experts, generator=generator).argsort(1)[:, :num_chosen].int()
    return torch.where(torch.rand(slots.shape, generator=generator) < elsewhere, -1, slots)


SCHEDULES = {
    "one row": (torch.tensor([[5, 2]]), E, 16),
    "nothing here": (torch.full((3, 2), -1), E, 16),
    "one expert": (torch.zeros(40, 1, dtype=torch.int32), 1, 16),
    "one of two choices here": (torch.tensor([[0, -1], [-1, 0], [-1, -1], [0, -1]], dtype=torch.int32), 1, 16),
    "experts without rows": (torch.tensor([[6, 1]] * 17, dtype=torch.int32), E, 16),
    "rows that fill tiles": (torch.tensor([[0, 7]] * 32, dtype=torch.int32), E, 16),
    "no experts": (torch.tensor([[0, 8], [9, 7]], dtype=torch.int64), E, 32),
    "many rows": (random_slots(700, 2, E, elsewhere=0.3), E, 64),
    "many experts": (random_slots(90, 6, 64), 64, 16),
    "very many rows": (random_slots(1500, 2, 5, elsewhere=0.1), 5, 128),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_rows_are_sorted_and_cut_as_the_twin_does(name, interpreted):
    assert interpreted(routing_differences, *SCHEDULES[name], "cpu") == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", SCHEDULES)
def test_rows_are_sorted_and_cut_on_a_gpu_as_the_twin_does(name):
    assert routing_differences(*SCHEDULES[name], "cuda") == []


def test_the_twin_cuts_tiles_of_one_expert_each():
    from expertmesh.kernels.triton.routing import read_spans, schedule_torch

    slots = torch.tensor([[3], [0], [-1], [3], [3]])
    order = schedule_torch(slots, 4, 2)
    assert order.tiles.tolist() == [[0, 0, 1], [3, 1, 4], [3, 3, 4], [-1, 4, 4]]
    assert order.rows[:4].tolist() == [1, 0, 3, 4]
    assert order.positions.tolist() == [[1], [0], [-1], [2], [3]]
    assert read_spans(order) == [(0, 0, 1), (3, 1, 4)]


@pytest.mark.parametrize("block_rows", [16, 64])
@pytest.mark.parametrize("spread", [[40, 40, 40], [118, 1, 1], [120, 0, 0], [33, 65, 22]])
def test_there_are_never_more_tiles_than_counted(spread, block_rows):
    from expertmesh.kernels.triton.tuning import count_tiles

    assert sum(-(-count // block_rows) for count in spread) <= count_tiles(sum(spread), 3, block_rows)
    assert count_tiles(2, E, block_rows) == 2


PARTS = torch.randn(3, 6, 700, generator=torch.Generator().manual_seed(0))
POSITIONS = torch.tensor([[4, 1, -1], [-1, -1, -1], [5, 0, 2], [-1, 3, -1]], dtype=torch.int32)
WEIGHTS = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
SUMS = {
    "of choices": (PARTS, POSITIONS, WEIGHTS, 4),
    "of one part": (PARTS[:1], POSITIONS, WEIGHTS, 4),
    "of parts": (PARTS, None, WEIGHTS, 6),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_those_of_the_twin_to_the_bit(name, interpreted):
    found, flag, expected, _ = interpreted(combined, *SUMS[name], "cpu")
    assert found.equal(expected)
    assert flag == 0


@pytest.mark.gpu
@pytest.mark.parametrize("name", SUMS)
def test_sums_on_a_gpu_are_those_of_the_twin_to_the_bit(name):
    found, flag, expected, _ = combined(*SUMS[name], "cuda")
    assert found.equal(expected)
    assert flag == 0


def check_flags(run, device: str) -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        parts = PARTS.clone()
        parts[1, 3, 650] = value
        assert run(combined, parts, POSITIONS, WEIGHTS, 4, device)[1::2] == [1, 1]
        unused = torch.where(POSITIONS == 3, -1, POSITIONS)
        assert run(combined, parts, unused, WEIGHTS, 4, device)[1::2] == [0, 0]


def test_a_sum_that_is_no_number_is_flagged(interpreted):
    check_flags(interpreted, "cpu")


@pytest.mark.gpu
def test_a_sum_on_a_gpu_that_is_no_number_is_flagged():
    check_flags(lambda function, *args: function(*args), "cuda")
