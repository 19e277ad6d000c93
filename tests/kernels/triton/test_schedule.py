import pytest

from expertmesh.kernels.triton.schedule import schedule_tiles


@pytest.mark.parametrize(
    ("num_rows", "expected"),
    [
        ([1], [[0, 0, 1]]),
        ([0, 3, 0], [[1, 0, 3]]),
        ([16, 17, 0, 1], [[0, 0, 16], [1, 16, 33], [1, 32, 33], [3, 33, 34]]),
        ([0, 0], []),
    ],
)
def test_tiles_belong_to_one_expert_each(num_rows, expected):
    assert schedule_tiles(num_rows, 16).tolist() == expected


@pytest.mark.parametrize("block_rows", [16, 64])
def test_every_row_is_in_one_tile(block_rows):
    num_rows = [5, 0, 64, 129, 1, 0, 300]
    covered = []
    for expert, first, end in schedule_tiles(num_rows, block_rows).tolist():
        assert end == sum(num_rows[: expert + 1])
        covered += range(first, min(first + block_rows, end))
    assert covered == list(range(sum(num_rows)))
