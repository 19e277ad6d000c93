from hypothesis import given
from hypothesis import strategies as st

from expertmesh.gateway.blocks import BlockPool


def test_a_block_belongs_to_one_holder_at_a_time():
    pool = BlockPool(4, block_size=16)
    first: list[int] = []
    second: list[int] = []
    pool.grow(first, 17)
    pool.grow(second, 32)
    assert len(first) == 2
    assert sorted(first + second) == [0, 1, 2, 3]
    assert not pool.can_grow(first, 33)
    pool.free(second)
    assert second == []
    assert pool.can_grow(first, 64)
    assert not pool.can_grow(first, 65)


def test_growing_within_the_last_block_takes_none():
    pool = BlockPool(2, block_size=16)
    blocks: list[int] = []
    pool.grow(blocks, 1)
    pool.grow(blocks, 16)
    assert len(blocks) == 1
    assert pool.num_free == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 70)), max_size=40))
def test_blocks_are_neither_lost_nor_doubled(actions: list[tuple[int, int]]):
    pool = BlockPool(8, block_size=4)
    holders: list[list[int]] = [[], [], [], []]
    for holder, num_tokens in actions:
        if num_tokens > 35:
            pool.free(holders[holder])
        elif pool.can_grow(holders[holder], num_tokens):
            pool.grow(holders[holder], num_tokens)
        held = [block for blocks in holders for block in blocks]
        assert len(set(held)) == len(held)
        assert len(held) + pool.num_free == 8
