import json
from dataclasses import replace

import pytest

from expertmesh.kernels.triton.tile_tables import (
    DEFAULT_GPU,
    SHIPPED,
    check_tiles,
    file_of,
    find_tiles,
    read_tiles,
    write_tiles,
)
from expertmesh.kernels.triton.tuning import choose_split, choose_tiles, list_tiles

PACKED = read_tiles(file_of(DEFAULT_GPU, SHIPPED))


@pytest.mark.parametrize(
    ("rows", "block_rows"), [(0, 16), (1, 16), (12, 16), (17, 32), (33, 64), (64, 64), (65, 128), (5000, 128)]
)
@pytest.mark.parametrize("bits", [0, 3, 4, 8])
def test_row_tiles_follow_the_rows_of_an_expert(rows, block_rows, bits):
    (tiles,) = choose_tiles(rows, list_tiles(PACKED, bits, has_tensor_cores=True))
    assert tiles.block_rows == block_rows
    assert (tiles.block_inputs == 0) == (bits > 0)


def test_both_launches_of_a_layer_share_their_row_tiles():
    tables = [list_tiles(PACKED, bits, has_tensor_cores=True) for bits in (0, 2)]
    assert [tiles.block_rows for tiles in choose_tiles(1000, *tables)] == [64, 64]


def test_k_is_split_by_the_shape_of_a_matrix():
    assert choose_split(num_out=4096, num_in=14336) == 4
    assert choose_split(num_out=16384, num_in=4096) == 2
    assert choose_split(num_out=32000, num_in=4096) == 1
    assert choose_split(num_out=64, num_in=2500) == 2
    assert choose_split(num_out=64, num_in=64) == 1


def test_without_tensor_cores_tiles_are_small():
    for bits in (0, 4):
        assert [tiles.block_rows for tiles in list_tiles(PACKED, bits, has_tensor_cores=False)] == [16]


def test_no_row_tile_of_2_bit_weights_has_128_rows():
    assert [tiles.block_rows for tiles in list_tiles(PACKED, 2, has_tensor_cores=True)] == [16, 32, 64]


def test_a_gpu_has_its_own_table_or_that_of_another(tmp_path):
    assert find_tiles("Some GPU", tmp_path) == PACKED
    own = (replace(PACKED[0], num_stages=2), *PACKED[1:])
    write_tiles(file_of("Some GPU/SXM", tmp_path), own)
    assert find_tiles("Some GPU/SXM", tmp_path) == own
    file_of("Some GPU/SXM", tmp_path).chmod(0o666)
    assert find_tiles("Some GPU/SXM", tmp_path) == PACKED, "others may have written it"


def test_what_is_written_is_what_is_shipped(tmp_path):
    write_tiles(tmp_path / "table.json", PACKED)
    assert (tmp_path / "table.json").read_text() == file_of(DEFAULT_GPU, SHIPPED).read_text()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (PACKED[1:], "one entry for each of"),
        ((replace(PACKED[0], num_warps=2), *PACKED[1:]), "must have outputs of"),
        ((replace(PACKED[0], block_outputs=32), *PACKED[1:]), "must have outputs of"),
        ((replace(PACKED[0], max_rows=33), *PACKED[1:]), "max_rows must not descend"),
        ((*PACKED[:3], replace(PACKED[3], max_rows=500)), "null in the end"),
    ],
)
def test_tiles_that_will_not_do_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        check_tiles(table)


@pytest.mark.parametrize("text", ["", "{}", json.dumps([{"rows": 16}])])
def test_a_file_that_is_no_table_is_named(tmp_path, text):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ValueError, match=r"table.json is no table of tiles: .*; delete it or make it anew with tune"):
        read_tiles(tmp_path / "table.json")
