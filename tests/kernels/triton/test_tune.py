"""The search for tiles with a made-up clock; on a GPU, the clock."""

import math
from dataclasses import replace

import pytest
import torch

from expertmesh.kernels.triton import tune
from expertmesh.kernels.triton.tile_tables import DEFAULT_GPU, SHIPPED, check_tiles, file_of, find_tiles, read_tiles
from expertmesh.kernels.triton.tuning import Tiles

USED = find_tiles(DEFAULT_GPU, SHIPPED)


def seconds(rows: int, tiles: Tiles) -> float:
    """Tell the time of a GPU that likes tiles of 128 outputs, 4 warps and 3 stages, and none of 64 rows.

    A tile costs as much as 8 rows do, besides its rows.
    """
    if tiles.block_rows == 64 and tiles.num_stages > 2:
        return math.inf
    cost = sum((tiles.block_outputs != 128, tiles.num_warps != 4, tiles.num_stages != 3))
    return 1e-6 * math.ceil(rows / tiles.block_rows) * (8 + tiles.block_rows) * (1 + cost + (tiles.block_rows == 64))


def test_the_best_tiles_of_each_size_serve_the_rows_at_which_they_are_fastest():
    found = tune.find_best(seconds, USED)
    check_tiles(found)
    assert [(tiles.block_rows, tiles.max_rows) for tiles in found] == [(16, 48), (32, 96), (64, 96), (128, None)]
    assert {(tiles.block_outputs, tiles.num_warps) for tiles in found} == {(128, 4)}
    assert [tiles.num_stages for tiles in found] == [3, 3, 2, 3]


def test_tiles_in_use_are_tried_as_well():
    rare = replace(USED[0], num_stages=6)
    found = tune.find_best(lambda rows, tiles: 0.1 if tiles.num_stages == 6 else 1.0, (rare, *USED[1:]))
    assert found[0].num_stages == 6
    assert [tiles.max_rows for tiles in found] == [256, 256, 256, None]


def test_a_gpu_on_which_a_size_does_not_run_has_no_table():
    with pytest.raises(ValueError, match="no tiles of 128 rows run on this GPU"):
        tune.find_best(lambda rows, tiles: math.inf if tiles.block_rows == 128 else 1.0, USED)


def test_better_tiles_are_kept_when_they_are_wanted(tmp_path):
    *_, last = tune.tune(seconds, "Some GPU", tmp_path, save=False)
    assert "--save" in last
    assert not list(tmp_path.iterdir())
    head, *lines, last = tune.tune(seconds, "Some GPU", tmp_path, save=True)
    assert len(lines) == len(tune.ROWS)
    assert lines[0].split() == ["1", "72.0", "24.0", "16", "x", "128,", "4,", "3"]
    assert last == f"Saved as {file_of('Some GPU', tmp_path)}"
    assert read_tiles(file_of("Some GPU", tmp_path)) == tune.find_best(seconds, USED)
    *_, last = tune.tune(seconds, "Some GPU", tmp_path, save=True)
    assert last == "Nothing is faster than what is in use."


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="tune needs a GPU to time tiles on, and torch finds none here"):
        tune.main([])


@pytest.mark.gpu
def test_a_layer_takes_less_than_a_hundredth_of_a_second():
    from expertmesh.kernels.triton.layer_clock import LayerClock

    time = LayerClock(torch.device("cuda"))
    assert all(0 < time(rows, USED[0]) < 0.01 for rows in (1, 12))
