from dataclasses import replace

import pytest

from expertmesh.kernels.triton.tuning import MAX_SPLIT, Workload, choose_tiles, list_tiles

# The down projections of two of Mixtral's experts for one token.
DOWN = Workload(
    rows_per_expert=1,
    num_active=2,
    num_out=4096,
    num_in=14336,
    bits=4,
    has_tensor_cores=True,
    can_split=True,
)


@pytest.mark.parametrize(
    ("rows", "block_rows"), [(1, 16), (16, 16), (17, 32), (33, 64), (64, 64), (65, 128), (5000, 128)]
)
@pytest.mark.parametrize("bits", [0, 3, 4, 8])
def test_row_tiles_follow_the_rows_of_an_expert(rows, block_rows, bits):
    tiles = choose_tiles(replace(DOWN, rows_per_expert=rows, bits=bits), num_processors=132)
    assert tiles.block_rows == block_rows
    assert (tiles.block_inputs == 0) == (bits > 0)


def test_k_is_split_until_every_processor_has_work():
    assert (
        choose_tiles(DOWN, num_processors=132).split == MAX_SPLIT
    )  # 2 experts x 32 tiles of outputs x 8 = 512 programs
    assert choose_tiles(DOWN, num_processors=40).split == 3  # 192 programs
    assert choose_tiles(DOWN, num_processors=16).split == 1
    assert choose_tiles(replace(DOWN, rows_per_expert=1000), num_processors=132).split == 1
    assert choose_tiles(replace(DOWN, can_split=False), num_processors=132).split == 1


def test_splits_have_bounds():
    assert choose_tiles(replace(DOWN, num_out=64), num_processors=132).split == MAX_SPLIT
    assert choose_tiles(replace(DOWN, num_out=64, num_in=2500), num_processors=132).split == 2
    assert choose_tiles(replace(DOWN, num_in=64), num_processors=132).split == 1
    assert choose_tiles(replace(DOWN, num_active=0, rows_per_expert=0), num_processors=132).split == MAX_SPLIT


def test_without_tensor_cores_tiles_are_small():
    for bits in (0, 4):
        assert [tiles.block_rows for tiles in list_tiles(bits, has_tensor_cores=False)] == [16]


def test_no_row_tile_of_2_bit_weights_has_128_rows():
    assert choose_tiles(replace(DOWN, bits=2, rows_per_expert=1000), num_processors=132).block_rows == 64
