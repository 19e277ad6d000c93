from hypothesis import given
from hypothesis import strategies as st

from expertmesh.engine.drafts import SIZES, PromptLookup


def test_what_followed_the_last_time_is_proposed():
    tokens = [1, 2, 3, 4, 1, 2, 5, 6, 1, 2]
    assert PromptLookup().propose(tokens, 2) == (5, 6)
    assert PromptLookup().propose(tokens, 9) == (5, 6, 1, 2)


def test_the_longest_end_that_came_before_decides():
    assert PromptLookup().propose([7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2], 1) == (3,)


def test_nothing_is_proposed_for_an_end_that_is_new():
    assert PromptLookup().propose([1, 2, 3, 4], 4) == ()
    assert PromptLookup().propose([1], 4) == ()
    assert PromptLookup().propose([], 4) == ()


@given(st.lists(st.integers(0, 2), max_size=30), st.integers(1, 5))
def test_a_growing_sequence_gives_what_the_whole_one_gives(tokens: list[int], num_tokens: int):
    growing = PromptLookup()
    for length in range(len(tokens) + 1):
        draft = growing.propose(tokens[:length], num_tokens)
        assert draft == PromptLookup().propose(tokens[:length], num_tokens)
        assert len(draft) <= num_tokens
    if draft:
        joined = ",".join(map(str, tokens)) + ","
        assert any(joined[:-1].rfind(",".join(map(str, [*tokens[-size:], *draft]))) >= 0 for size in SIZES)
