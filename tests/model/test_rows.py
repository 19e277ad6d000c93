import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expertmesh.model.rows import nearest_to_zero, select, to_device, total


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, -1e-45, 1e-38, -0.5, 1.0, -1.0, 3.4e38, float("-inf")]), min_size=1, max_size=20
    )
)
def test_nearest_come_in_order_ties_by_column(values: list[float]):
    expected = sorted(range(len(values)), key=lambda index: (abs(values[index]), index))
    for num in range(len(values) + 1):
        assert nearest_to_zero(torch.tensor([values]), num).tolist() == [expected[:num]]


@pytest.mark.parametrize("num", [0, 1, 100, 40_000])
def test_nearest_of_a_large_vocabulary_are_those_of_a_stable_sort(num: int):
    values = torch.rand(3, 40_000, generator=torch.Generator().manual_seed(0)).mul(1000).round()
    assert torch.equal(nearest_to_zero(values, num), values.sort(dim=-1, stable=True).indices[:, :num])


def test_total_of_a_row_is_the_same_alone():
    matrix = torch.rand(5, 200_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(total(matrix), torch.cat([total(row.unsqueeze(0)) for row in matrix]))
    torch.testing.assert_close(total(matrix).squeeze(1), matrix.sum(dim=-1))


def test_no_rows_named_are_all():
    matrix = torch.arange(6).view(3, 2)
    assert select(matrix, None) is matrix
    assert select(matrix, to_device([2, 0], torch.int64, matrix.device)).tolist() == [[4, 5], [0, 1]]
