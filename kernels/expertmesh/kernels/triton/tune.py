"""Finds the tiles that suit the GPU at hand. Knows how to search and what to show; ``layer_clock`` knows how to time.

``python -m expertmesh.kernels.triton.tune`` times Mixtral's experts with each choice of tiles, some minutes long, and
prints what is faster than what is in use; with ``--save`` it is kept where the backend finds it, for this kind of GPU.
Results keep their bits.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import torch

from expertmesh.kernels.triton.layer_clock import LayerClock
from expertmesh.kernels.triton.tile_tables import OUTPUTS, WARPS, file_of, find_tiles, own_tables, write_tiles
from expertmesh.kernels.triton.tuning import Tiles, choose_tiles

# Rows per expert at which tiles of so many rows are timed to find the best of these.
ROWS_SERVED = {16: (1, 4, 8, 12), 32: (16, 24, 32), 64: (48, 64), 128: (96, 128, 256)}
ROWS = tuple(rows for served in ROWS_SERVED.values() for rows in served)
STAGES = (2, 3, 4)

# Seconds that a layer takes with so many rows for each expert, cut so; infinite where a GPU has no room for it.
Time = Callable[[int, Tiles], float]


@dataclass(frozen=True)
class Gain:
    """Seconds of a layer with ``rows`` for each expert, as tiles are and as they could be."""

    rows: int
    before: float
    after: float


def find_best(time: Time, used: Sequence[Tiles]) -> tuple[Tiles, ...]:
    """Time tiles of each size, those in use among them, and return the best of each with the rows that they serve.

    ValueError when there is a size of which none runs.
    """
    time = cache(time)
    best = [_choose_best(time, block_rows, used) for block_rows in ROWS_SERVED]
    fastest = {rows: min(best, key=lambda tiles: time(rows, tiles)).block_rows for rows in ROWS}
    limits = [max((rows for rows in ROWS if fastest[rows] <= tiles.block_rows), default=0) for tiles in best[:-1]]
    return tuple(replace(tiles, max_rows=limit) for tiles, limit in zip(best, [*limits, None], strict=True))


def compare(time: Time, used: Sequence[Tiles], found: Sequence[Tiles]) -> list[Gain]:
    """Time what two tables would choose."""
    return [Gain(rows, *(time(rows, choose_tiles(rows, table)[0]) for table in (used, found))) for rows in ROWS]


def is_better(gains: Sequence[Gain]) -> bool:
    """Whether the mean layer got faster, by ratios."""
    return math.prod(gain.after / gain.before for gain in gains) < 1


def tune(time: Time, gpu: str, directory: Path, save: bool) -> Iterator[str]:
    """Look for better tiles for ``gpu``, and write them to ``directory`` if ``save``; yields what to tell."""
    used = find_tiles(gpu, directory)
    found = find_best(time, used)
    gains = compare(time, used, found)
    yield "rows per expert   now (us)   best (us)   tiles (rows x outputs, warps, stages)"
    for gain in gains:
        (tiles,) = choose_tiles(gain.rows, found)
        cut = f"{tiles.block_rows} x {tiles.block_outputs}, {tiles.num_warps}, {tiles.num_stages}"
        yield f"{gain.rows:15}   {gain.before * 1e6:8.1f}   {gain.after * 1e6:9.1f}   {cut}"
    if not is_better(gains):
        yield "Nothing is faster than what is in use."
    elif save:
        write_tiles(file_of(gpu, directory), found)
        yield f"Saved as {file_of(gpu, directory)}"
    else:
        yield "With --save, servers on this machine would use these."


def main(argv: Sequence[str] | None = None) -> None:
    """Tune for the current GPU."""
    parser = argparse.ArgumentParser(prog="python -m expertmesh.kernels.triton.tune", description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep better tiles for servers on this machine")
    save = parser.parse_args(argv).save
    if not torch.cuda.is_available():
        sys.exit("tune needs a GPU to time tiles on, and torch finds none here.")
    device = torch.device("cuda")
    for line in tune(LayerClock(device), torch.cuda.get_device_name(device), own_tables(), save):
        print(line, flush=True)


def _choose_best(time: Time, block_rows: int, used: Sequence[Tiles]) -> Tiles:
    made = [Tiles(None, block_rows, *cut) for cut in product(OUTPUTS, WARPS, STAGES)]
    made += [replace(tiles, max_rows=None) for tiles in used if tiles.block_rows == block_rows]
    best = min(made, key=lambda tiles: _ratio(time, tiles))
    if math.isinf(_ratio(time, best)):
        raise ValueError(f"no tiles of {block_rows} rows run on this GPU; it has too little shared memory")
    return best


def _ratio(time: Time, tiles: Tiles) -> float:
    """Seconds with each number of rows that ``tiles`` serve, multiplied: the mean of ratios between two tiles."""
    return math.prod(time(rows, tiles) for rows in ROWS_SERVED[tiles.block_rows])


if __name__ == "__main__":
    main()
