import pytest
import torch

from expertmesh.kernels.finite import is_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_none_is_found(value):
    values = torch.zeros(3, 5)
    values[1, 2] = value
    assert not is_finite(values)


@pytest.mark.parametrize("values", [torch.zeros(0), torch.ones(2, 3), torch.full((4,), torch.finfo().max)])
def test_numbers_are_finite_even_where_their_sum_is_not(values):
    assert is_finite(values)


def test_opposite_infinities_do_not_hide_each_other():
    assert not is_finite(torch.tensor([float("inf"), -float("inf")]))
