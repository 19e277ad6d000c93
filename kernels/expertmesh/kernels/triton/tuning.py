"""Tile sizes by shape: pure functions over small tables. Knows no tensor and asks no device.

Tables change how fast a result is there, never its bits. Every sum over K has one order, whatever the tile: planes, or
blocks, of input features one after the other within each part of K, then the parts. How many parts there are depends on
the matrix alone. And all tiles of a device have its tensor cores run one instruction, which differs only in the number
of columns, that is of rows of a batch, it takes at a time (``tests/kernels/triton/test_ahead.py`` reads that off the
machine code). That an instruction treats its columns alike is what is left to trust; tests marked ``gpu`` look.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

# Programs that keep the memory of the largest GPUs busy: 4 for each of 132 processors.
MIN_PROGRAMS = 512
# Outputs of a program when rows are few, which is when there are few programs.
OUTPUTS_OF_FEW_ROWS = 64
# An H200 takes as long for 8 parts as for 4.
MAX_SPLIT = 4
# A part of K that is worth a program of its own.
MIN_INPUTS_PER_SPLIT = 1024
# Each part that has a program of its own writes a sum for every row, in float32. With more rows there are programs
# enough, and one adds up all the parts.
MAX_BLOCK_ROWS_TO_SPREAD = 64
# Packed matrices are unpacked anew for every tile of rows. Writing and reading an unpacked copy instead costs 4.5 bytes
# per weight once, after which a library's product runs: on an H200 about 0.9 ms for eight Mixtral experts, against
# 0.3 us per row if the library reaches 650 Tflop/s and this kernel 400. That is 330 rows per expert.
MIN_ROWS_TO_UNPACK = 384


@dataclass(frozen=True)
class Tiles:
    """How a launch is cut: BM rows, BN outputs, BK inputs at a time (dense weights only).

    It serves experts with ``max_rows`` rows in the mean, or any number.
    """

    max_rows: int | None
    block_rows: int
    block_outputs: int
    num_warps: int
    num_stages: int
    block_inputs: int = 0


# Rows of the tiles of a table, in this order; it may end before the last.
BLOCK_ROWS = (16, 32, 64, 128)
# 8 codes per word want 8 tiles of rows at a time, in each stage: more rows than these, stages counted, would not fit.
MAX_STAGED_ROWS_OF_2_BITS = 128
DENSE = (
    Tiles(max_rows=16, block_rows=16, block_outputs=64, num_warps=4, num_stages=4, block_inputs=64),
    Tiles(max_rows=32, block_rows=32, block_outputs=64, num_warps=4, num_stages=4, block_inputs=64),
    Tiles(max_rows=64, block_rows=64, block_outputs=128, num_warps=4, num_stages=2, block_inputs=64),
    Tiles(max_rows=None, block_rows=128, block_outputs=128, num_warps=8, num_stages=2, block_inputs=64),
)
# Without tensor cores a product is unrolled into multiply-adds, whose operands all want registers.
PACKED_SCALAR = (Tiles(max_rows=None, block_rows=16, block_outputs=32, num_warps=4, num_stages=1),)
DENSE_SCALAR = (Tiles(max_rows=None, block_rows=16, block_outputs=64, num_warps=8, num_stages=1, block_inputs=32),)


def list_tiles(packed: Sequence[Tiles], bits: int, has_tensor_cores: bool) -> Sequence[Tiles]:
    """Return the tiles for one kind of weights (``bits`` is 0 for dense ones) and products.

    ``packed`` are those of the device for packed weights on tensor cores.
    """
    if not has_tensor_cores:
        return PACKED_SCALAR if bits else DENSE_SCALAR
    if not bits:
        return DENSE
    return _fit_2_bits(packed) if bits == 2 else packed


def choose_tiles(rows_per_expert: int, *tables: Sequence[Tiles]) -> tuple[Tiles, ...]:
    """Take, of each table, the tiles that serve the mean expert; all with as many rows as the smallest of them."""
    block_rows = min(_serve(rows_per_expert, table).block_rows for table in tables)
    return tuple(next(tiles for tiles in table if tiles.block_rows == block_rows) for table in tables)


def choose_split(num_out: int, num_in: int) -> int:
    """Return in how many parts K of a matrix [N, K] is summed up: enough to keep a GPU busy when rows are few."""
    wanted = MIN_PROGRAMS // ceil(num_out / OUTPUTS_OF_FEW_ROWS)
    return max(1, min(wanted, MAX_SPLIT, num_in // MIN_INPUTS_PER_SPLIT))


def spreads_parts(tiles: Tiles, gathers_inputs: bool) -> bool:
    """Whether each part of K has a program of its own; otherwise one computes all of them, with the same result.

    Pointers that are gathered (act-order) leave no registers for a second sum.
    """
    return gathers_inputs or tiles.block_rows <= MAX_BLOCK_ROWS_TO_SPREAD


def count_tiles(num_choices: int, num_experts: int, block_rows: int) -> int:
    """Return how many tiles ``num_choices`` rows of ``num_experts`` can fill, however they are spread."""
    num_active = min(num_choices, num_experts)  # each of which may have one tile that is not full
    return num_active + (num_choices - num_active) // block_rows


def _fit_2_bits(packed: Sequence[Tiles]) -> Sequence[Tiles]:
    max_stages = {tiles: MAX_STAGED_ROWS_OF_2_BITS // tiles.block_rows for tiles in packed}
    return [replace(tiles, num_stages=min(tiles.num_stages, most)) for tiles, most in max_stages.items() if most > 1]


def _serve(rows_per_expert: int, table: Sequence[Tiles]) -> Tiles:
    return next((tiles for tiles in table if tiles.max_rows is None or rows_per_expert <= tiles.max_rows), table[-1])
