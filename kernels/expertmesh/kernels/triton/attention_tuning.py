"""How attention is cut, by processor and head width: pure functions over small tables. Knows no tensor, asks no device.

Chosen by what the compiler reports (registers, spills, shared memory) and by arithmetic, not by timing.
"""

from dataclasses import dataclass, replace
from enum import Enum

# Positions are dealt to the stripes so many at a time. 256 keys and values of a head of 128 are 128 KiB, some 4 us of
# the bandwidth that one processor of an H200 has: a shorter program would mostly start and end.
SPAN = 256
# Programs of one sequence and key-value head in a decode step: for one sequence of a Mixtral 16 x 8 fill 128 of 132
# processors. More would be more partial sums to write and to add.
NUM_STRIPES = 16
# Values that a program combines: it loads those of all stripes at once.
MAX_COMBINED = 1024


class Products(Enum):
    """What multiplies: multiply-adds, or the matrix instructions of a kind of tensor core."""

    SCALAR = "scalar"
    MMA = "mma"  # NVIDIA from sm_80 on, with 99 KiB of shared memory or more
    WGMMA = "wgmma"  # sm_90 and sm_100, in tiles of 64 rows, with 227 KiB
    MFMA = "mfma"  # AMD, with 64 KiB


@dataclass(frozen=True)
class AttentionTiles:
    """How a launch is cut.

    ``rows`` (tokens x query heads) meet ``keys`` at a time. Queries and keys are multiplied ``score_features`` at a
    time, and a program sums up ``sum_features`` of the values.
    """

    rows: int
    keys: int
    score_features: int
    sum_features: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class LayerTiles:
    """The tiles of decode steps and of all others.

    Both take as many keys at a time, and rows that the same matrix instruction takes, so that their sums are alike.
    """

    decode: AttentionTiles
    mixed: AttentionTiles


# By features, the width of a head rounded up to a power of two. A decode step has few rows, but wgmma takes 64, and the
# tensor cores wait for the memory in any case. Steps that are not decode steps keep two sums of a tile in registers, of
# the stripe and of those before it, which is what bounds rows and features.
_TABLES = {
    # Products are unrolled into multiply-adds, whose operands all want registers.
    Products.SCALAR: {
        features: LayerTiles(
            decode=AttentionTiles(16, 16, slice_features, part_features, num_warps=4, num_stages=1),
            mixed=AttentionTiles(16, 16, slice_features, part_features, num_warps=4, num_stages=1),
        )
        for features, slice_features, part_features in ((64, 32, 64), (128, 64, 128), (256, 64, 128))
    },
    Products.MMA: {
        64: LayerTiles(
            decode=AttentionTiles(16, 64, 64, 64, num_warps=4, num_stages=5),
            mixed=AttentionTiles(128, 64, 64, 64, num_warps=8, num_stages=3),
        ),
        128: LayerTiles(
            decode=AttentionTiles(16, 32, 128, 128, num_warps=4, num_stages=5),
            mixed=AttentionTiles(128, 32, 128, 128, num_warps=8, num_stages=3),
        ),
        256: LayerTiles(
            decode=AttentionTiles(16, 16, 256, 128, num_warps=4, num_stages=5),
            mixed=AttentionTiles(64, 16, 256, 128, num_warps=4, num_stages=3),
        ),
    },
    Products.WGMMA: {
        64: LayerTiles(
            decode=AttentionTiles(64, 64, 64, 64, num_warps=4, num_stages=5),
            mixed=AttentionTiles(128, 64, 64, 64, num_warps=8, num_stages=3),
        ),
        128: LayerTiles(
            # One stage more, and only one program would fit a processor.
            decode=AttentionTiles(64, 64, 128, 128, num_warps=4, num_stages=4),
            mixed=AttentionTiles(128, 64, 128, 128, num_warps=8, num_stages=3),
        ),
        256: LayerTiles(
            decode=AttentionTiles(64, 64, 256, 128, num_warps=4, num_stages=3),
            mixed=AttentionTiles(128, 64, 256, 128, num_warps=8, num_stages=3),
        ),
    },
    Products.MFMA: {
        features: LayerTiles(
            decode=AttentionTiles(16, 32, features, features, num_warps=4, num_stages=2),
            mixed=AttentionTiles(64, 32, features, features, num_warps=4, num_stages=2),
        )
        for features in (64, 128, 256)
    },
}


def choose_attention_tiles(products: Products, width: int, sharing: int) -> LayerTiles:
    """Choose the tiles for heads of ``width`` features, of which ``sharing`` share a key-value head.

    ValueError when heads are wider than 256.
    """
    tiles = next((tiles for features, tiles in _TABLES[products].items() if width <= features), None)
    if tiles is None:
        raise ValueError(f"heads of {width} features are wider than the 256 that there are tiles for")
    return LayerTiles(_hold(tiles.decode, sharing), _hold(tiles.mixed, sharing))


def choose_combining_tiles(tiles: AttentionTiles, width: int, sharing: int) -> AttentionTiles:
    """Choose how what decode programs of ``tiles`` have summed up is combined."""
    # With a single row AMD's compiler runs out of scalar registers.
    rows = max(2, _round_up(sharing))
    sum_features = min(_round_up(width), MAX_COMBINED // rows)
    return AttentionTiles(rows, tiles.keys, tiles.score_features, sum_features, num_warps=4, num_stages=1)


def _hold(tiles: AttentionTiles, sharing: int) -> AttentionTiles:
    """Make tiles hold the heads of a token."""
    return replace(tiles, rows=max(tiles.rows, _round_up(sharing)))


def _round_up(count: int) -> int:
    """Return the smallest power of two that is at least ``count``."""
    return 1 << (count - 1).bit_length()
