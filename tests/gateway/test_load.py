import pytest
import torch

from expertmesh.gateway.load import ExpertLoadCounter, balancedness, shares


def test_rows_are_counted_by_layer_and_expert_and_in_flight_only_inside():
    load = ExpertLoadCounter(num_layers=2, num_experts=3)
    with load.count(0, torch.tensor([[0, 2], [2, 1]])):
        assert [load.inflight_rows(expert) for expert in range(3)] == [1, 1, 2]
    with load.count(1, torch.tensor([[2, 0]])):
        pass
    assert load.totals() == [2, 1, 3]
    assert load.by_layer(2) == [2, 1]
    assert [load.inflight_rows(expert) for expert in range(3)] == [0, 0, 0]


def test_a_failed_step_is_no_longer_in_flight():
    load = ExpertLoadCounter(1, 2)
    with pytest.raises(RuntimeError), load.count(0, torch.tensor([[0, 1]])):
        raise RuntimeError
    assert load.inflight_rows(0) == 0


@pytest.mark.parametrize(
    ("totals", "expected"), [([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.25), ([3, 1], 2 / 3), ([0, 0], 0.0)]
)
def test_balancedness_is_mean_over_max(totals: list[int], expected: float):
    assert balancedness(totals) == pytest.approx(expected)


def test_shares_add_up_to_one_once_there_is_load():
    assert shares([1, 3]) == [0.25, 0.75]
    assert shares([0, 0]) == [0.0, 0.0]
