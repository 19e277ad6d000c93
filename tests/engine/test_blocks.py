from hypothesis import given
from hypothesis import strategies as st

from expertmesh.engine.blocks import ROOT, BlockPool


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


def compute(pool: BlockPool, tokens: list[int]) -> list[int]:
    """Do what a sequence does: share what is known, take blocks for the rest, remember all."""
    blocks = pool.find(tokens)
    pool.share(blocks)
    pool.grow(blocks, len(tokens))
    pool.remember(blocks, tokens, len(tokens), ROOT, 0)
    return blocks


def test_full_blocks_of_a_known_prefix_are_shared():
    pool = BlockPool(8, block_size=2)
    first = compute(pool, [1, 2, 3, 4, 5])
    second = compute(pool, [1, 2, 3, 4, 6])
    assert second[:2] == first[:2]
    assert second[2] != first[2]
    pool.free(first)
    assert pool.num_free == 5
    pool.free(second)
    assert pool.num_free == 8


def test_one_token_at_least_is_left_to_compute():
    pool = BlockPool(8, block_size=2)
    pool.free(compute(pool, [1, 2, 3, 4]))
    assert len(pool.find([1, 2, 3, 4])) == 1
    assert len(pool.find([1, 2, 3, 4, 5])) == 2
    assert pool.find([1, 2]) == []
    assert pool.find([]) == []


def test_the_same_tokens_behind_another_beginning_are_not_the_same():
    pool = BlockPool(8, block_size=2)
    pool.free(compute(pool, [1, 2, 3, 4]))
    assert pool.find([9, 9, 3, 4, 5]) == []
    assert pool.find([3, 4, 5]) == []


def test_free_blocks_stay_known_until_they_are_needed_the_oldest_first():
    pool = BlockPool(4, block_size=2)
    pool.free(compute(pool, [1, 2, 3, 4]))
    pool.free(compute(pool, [5, 6]))
    compute(pool, [7, 7])
    assert len(pool.find([1, 2, 3, 4, 0])) == 2
    compute(pool, [8, 8])
    assert len(pool.find([1, 2, 3, 4, 0])) == 1  # its end went first
    assert len(pool.find([5, 6, 0])) == 1


def test_blocks_that_were_found_are_not_counted_as_room():
    pool = BlockPool(3, block_size=2)
    pool.free(compute(pool, [1, 2, 3, 4]))
    known = pool.find([1, 2, 3, 4, 5])
    assert pool.can_grow(known, 6)
    assert not pool.can_grow(known, 7)


def test_without_reuse_nothing_is_known():
    pool = BlockPool(8, block_size=2, reuses_prefixes=False)
    pool.free(compute(pool, [1, 2, 3, 4]))
    assert pool.find([1, 2, 3, 4, 5]) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), max_size=14)), max_size=40))
def test_shared_blocks_hold_what_their_sequences_hold(actions: list[tuple[int, list[int]]]):
    pool = BlockPool(9, block_size=2)
    holders: list[tuple[list[int], list[int]]] = [([], [])] * 4
    contents: dict[int, tuple[int, ...]] = {}
    for holder, tokens in actions:
        blocks, _ = holders[holder]
        pool.free(blocks)
        known = pool.find(tokens)
        for index, block in enumerate(known):
            assert contents[block] == tuple(tokens[: 2 * index + 2])
        if pool.can_grow(known, len(tokens)):
            blocks = compute(pool, tokens)
            contents |= {block: tuple(tokens[: 2 * index + 2]) for index, block in enumerate(blocks)}
            holders[holder] = (blocks, tokens)
        else:
            holders[holder] = ([], [])
        assert pool.num_free == 9 - len({block for held, _ in holders for block in held})


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


def test_what_is_known_under_one_root_is_unknown_under_others():
    pool = BlockPool(8, block_size=2)
    mine, theirs = pool.root_of("mine"), pool.root_of("theirs")
    assert pool.root_of("") == ROOT
    assert pool.root_of("mine") == mine
    blocks = pool.find([1, 2, 3, 4, 5], mine)
    pool.grow(blocks, 5)
    pool.remember(blocks, [1, 2, 3, 4, 5], 5, mine, 0)
    assert pool.find([1, 2, 3, 4, 5], mine) == blocks[:2]
    assert pool.find([1, 2, 3, 4, 5], theirs) == pool.find([1, 2, 3, 4, 5]) == []
