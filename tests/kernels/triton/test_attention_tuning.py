from itertools import product

import pytest

from expertmesh.kernels.triton.attention_tuning import (
    MAX_COMBINED,
    SPAN,
    Products,
    choose_attention_tiles,
    choose_combining_tiles,
)

WIDTHS, SHARING = (64, 80, 96, 128, 192, 256), (1, 4, 6, 16, 32)
layers = pytest.mark.parametrize(("products", "width", "sharing"), list(product(Products, WIDTHS, SHARING)))


@layers
def test_decode_steps_and_others_take_keys_alike(products, width, sharing):
    tiles = choose_attention_tiles(products, width, sharing)
    assert tiles.decode.keys == tiles.mixed.keys
    assert SPAN % tiles.decode.keys == 0
    # A warp group of Hopper takes 64 rows, and fewer go another way.
    assert products != Products.WGMMA or tiles.decode.rows >= 64


@layers
def test_tiles_hold_the_heads_of_a_token(products, width, sharing):
    tiles = choose_attention_tiles(products, width, sharing)
    combining = choose_combining_tiles(tiles.decode, width, sharing)
    assert min(tiles.decode.rows, tiles.mixed.rows, combining.rows) >= sharing
    assert combining.rows * combining.sum_features <= MAX_COMBINED


def test_wider_heads_are_refused():
    with pytest.raises(ValueError, match="heads of 257 features"):
        choose_attention_tiles(Products.MMA, 257, 1)
