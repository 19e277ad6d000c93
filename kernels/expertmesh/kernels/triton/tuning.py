"""Tile sizes by shape: pure functions over a small table. Knows no tensor and asks no device.

The sizes were chosen by what the compiler reports (registers, spills, shared memory: ``benchmarks/triton_resources.py``
prints them) and by arithmetic, not by timing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

# Programs per processor below which K is split: fewer stream too little at a time to keep the memory busy.
PROGRAMS_PER_PROCESSOR = 4
MAX_SPLIT = 8
# Each part writes a sum for every row, in float32: with more rows that costs more than it fills.
MAX_BLOCK_ROWS_TO_SPLIT = 32
# A part of K that is worth a program of its own.
MIN_INPUTS_PER_SPLIT = 1024
# Packed matrices are unpacked anew for every tile of rows. Writing and reading an unpacked copy instead costs 4.5 bytes
# per weight once, after which a library's product runs: on an H200 about 0.9 ms for eight Mixtral experts, against
# 0.3 us per row if the library reaches 650 Tflop/s and this kernel 400. That is 330 rows per expert.
MIN_ROWS_TO_DEQUANTIZE = 384


@dataclass(frozen=True)
class Workload:
    """One launch.

    ``rows_per_expert`` is the mean over the ``num_active`` experts that have rows; the matrices are [num_out, num_in]
    of ``bits`` bits, 0 for dense ones. ``has_tensor_cores`` says whether products of its dtype run on them.
    ``can_split``: whether partial sums will do.
    """

    rows_per_expert: int
    num_active: int
    num_out: int
    num_in: int
    bits: int
    has_tensor_cores: bool
    can_split: bool


@dataclass(frozen=True)
class Tiles:
    """How a launch is cut: BM rows, BN outputs, BK inputs at a time (dense weights only), K in ``split`` parts."""

    block_rows: int
    block_outputs: int
    block_inputs: int
    num_warps: int
    num_stages: int
    split: int = 1


# Ordered by rows; the last serves all larger ones. Each fits 64 KiB of shared memory on gfx942 and 99 KiB on sm_80.
# Few rows leave the time to unpacking: with 128 outputs, what a loop does besides serves twice the weights of 64.
PACKED = (
    Tiles(block_rows=16, block_outputs=128, block_inputs=0, num_warps=4, num_stages=4),
    Tiles(block_rows=32, block_outputs=128, block_inputs=0, num_warps=4, num_stages=3),
    Tiles(block_rows=64, block_outputs=128, block_inputs=0, num_warps=4, num_stages=2),
    Tiles(block_rows=128, block_outputs=128, block_inputs=0, num_warps=8, num_stages=2),
)
# 8 codes per word want 8 tiles of rows at a time; 128 rows of them would not fit.
PACKED_2_BITS = PACKED[:3]
DENSE = (
    Tiles(block_rows=16, block_outputs=64, block_inputs=64, num_warps=4, num_stages=4),
    Tiles(block_rows=32, block_outputs=64, block_inputs=64, num_warps=4, num_stages=4),
    Tiles(block_rows=64, block_outputs=128, block_inputs=64, num_warps=4, num_stages=2),
    Tiles(block_rows=128, block_outputs=128, block_inputs=64, num_warps=8, num_stages=2),
)
# Without tensor cores a product is unrolled into multiply-adds, whose operands all want registers.
PACKED_SCALAR = (Tiles(block_rows=16, block_outputs=32, block_inputs=0, num_warps=4, num_stages=1),)
DENSE_SCALAR = (Tiles(block_rows=16, block_outputs=64, block_inputs=32, num_warps=8, num_stages=1),)


def choose_tiles(work: Workload, num_processors: int) -> Tiles:
    """Take the smallest row tile that holds the mean expert, and split K where there are too few tiles to go round."""
    table = list_tiles(work.bits, work.has_tensor_cores)
    tiles = next((tiles for tiles in table if work.rows_per_expert <= tiles.block_rows), table[-1])
    if work.can_split and tiles.block_rows <= MAX_BLOCK_ROWS_TO_SPLIT:
        return replace(tiles, split=_choose_split(work, tiles, num_processors))
    return tiles


def list_tiles(bits: int, has_tensor_cores: bool) -> Sequence[Tiles]:
    """Return the part of the table for one kind of weights (``bits`` is 0 for dense ones) and products."""
    if not has_tensor_cores:
        return PACKED_SCALAR if bits else DENSE_SCALAR
    if not bits:
        return DENSE
    return PACKED_2_BITS if bits == 2 else PACKED


def _choose_split(work: Workload, tiles: Tiles, num_processors: int) -> int:
    row_tiles = work.num_active * ceil(work.rows_per_expert / tiles.block_rows)
    num_programs = row_tiles * ceil(work.num_out / tiles.block_outputs)
    wanted = ceil(num_processors * PROGRAMS_PER_PROCESSOR / max(num_programs, 1))
    return max(1, min(wanted, MAX_SPLIT, work.num_in // MIN_INPUTS_PER_SPLIT))
