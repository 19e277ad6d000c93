"""Attention in C against torch's in float64, and the equalities that it promises."""

from dataclasses import dataclass, replace

import pytest
import torch

from expertmesh.kernels.native.library import Library
from expertmesh.kernels.native.paged_attention import attend_paged as attend_natively
from expertmesh.kernels.paged_attention import PagedContexts, attend_paged

TYPES = (torch.float32, torch.float16, torch.bfloat16)
BLOCK_SIZE = 16
UNLIMITED = 2**62
MAX_ERROR = 1e-6


@dataclass(frozen=True)
class Case:
    """Queries and a cache of random values, and what each sequence sees of it."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    contexts: PagedContexts

    def attend(self, library: Library) -> torch.Tensor:
        return attend_natively(library, self.query, self.keys, self.values, self.contexts)

    def expected(self) -> torch.Tensor:
        return attend_paged(self.query.double(), self.keys.double(), self.values.double(), self.contexts)

    def take(self, sequences: list[int]) -> "Case":
        """Leave the new tokens of some sequences."""
        starts, counts = self.contexts.first_rows, self.contexts.num_new
        rows = [row for i in sequences for row in range(starts[i], starts[i] + counts[i])]
        contexts = replace(
            self.contexts,
            slots=self.contexts.slots[sequences],
            num_new=tuple(counts[i] for i in sequences),
            lengths=tuple(self.contexts.lengths[i] for i in sequences),
        )
        return replace(self, query=self.query[rows], contexts=contexts)

    def one_by_one(self, library: Library) -> torch.Tensor:
        """Attend from each new token by itself, as it would when it was the newest."""
        contexts, found = self.contexts, []
        for i, (start, count, length) in enumerate(contexts.sequences.tolist()):
            for row in range(count):
                seen = PagedContexts(contexts.slots[i : i + 1], (1,), (length - count + 1 + row,), contexts.window)
                alone = replace(self, query=self.query[start + row : start + row + 1], contexts=seen)
                found.append(alone.attend(library))
        return torch.cat(found)


def make_case(
    lengths: tuple[int, ...],
    heads: tuple[int, int] = (8, 2),
    head_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    window: int = UNLIMITED,
    num_new: tuple[int, ...] | None = None,
) -> Case:
    """Sequences whose blocks lie in the cache in random order; of each a token is new, or ``num_new``."""
    generator = torch.Generator().manual_seed(sum(lengths) + head_dim)
    num_blocks = -(-max(lengths) // BLOCK_SIZE)
    blocks = torch.randperm(len(lengths) * num_blocks, generator=generator).view(len(lengths), num_blocks, 1)
    slots = (blocks * BLOCK_SIZE + torch.arange(BLOCK_SIZE)).flatten(1)[:, : max(lengths)]

    def draw(num_rows: int, num_heads: int) -> torch.Tensor:
        return torch.randn(num_rows, num_heads, head_dim, generator=generator).to(dtype)

    num_slots = blocks.numel() * BLOCK_SIZE
    keys, values = draw(num_slots, heads[1]), draw(num_slots, heads[1])
    num_new = num_new or (1,) * len(lengths)
    return Case(draw(sum(num_new), heads[0]), keys, values, PagedContexts(slots, num_new, lengths, window))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


# Contexts of one token, of a block, across blocks, of a span of the kernel (64), across spans; odd numbers of heads.
LENGTHS = [(1,), (16,), (64,), (5, 1, 17), tuple(range(1, 139, 8)), (700, 65)]
HEADS = [(1, 1), (3, 3), (8, 2), (6, 2), (5, 1), (32, 8)]
HEAD_DIMS = [1, 8, 13, 24, 64, 80, 128]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("heads", HEADS)
def test_attention_is_close_to_float64(library, dtype, lengths, heads):
    case = make_case(lengths, heads, 24, dtype)
    wide = replace(case, query=case.query.float())
    assert relative_error(wide.attend(library), case.expected()) < MAX_ERROR
    # A query in 16 bits gets the same result, rounded once.
    assert case.attend(library).equal(wide.attend(library).to(dtype))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_heads_of_any_width(library, dtype, head_dim):
    case = make_case((70, 3), (6, 2), head_dim, dtype)
    found = replace(case, query=case.query.float()).attend(library)
    assert relative_error(found, case.expected()) < MAX_ERROR


@pytest.mark.parametrize("window", [1, 7, 64, 100, 129, 130, 1000])
def test_a_window_hides_what_is_too_far_back(library, window):
    case = make_case((130, 50, 1), window=window)
    assert relative_error(case.attend(library), case.expected()) < MAX_ERROR
    hidden = case.contexts.slots[0, : max(0, 130 - window)]
    case.keys[hidden] = case.values[hidden] = float("nan")
    assert case.attend(library)[0].isfinite().all()


@pytest.mark.parametrize("size", [1e-3, 10.0, 300.0])
def test_flat_and_sharp_attention(library, size):
    case = make_case((200, 30))
    case = replace(case, query=case.query * size)
    # Scores are as exact as float32 allows: an error of 2^-23 of a score is one of the weight, in units of 1.
    assert relative_error(case.attend(library), case.expected()) < MAX_ERROR * max(1.0, size)


# Prompts and chunks: within a span of the kernel, across spans and groups of tokens, beside tokens by themselves.
CHUNKS = [((5,), (5,)), ((64,), (64,)), ((130,), (130,)), ((70, 200, 33), (3, 150, 1)), ((1, 90, 17), (1, 2, 17))]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("lengths", "num_new"), CHUNKS, ids=str)
@pytest.mark.parametrize("heads", [(1, 1), (6, 2), (5, 1), (32, 8)])
@pytest.mark.parametrize("window", [1, 7, 100, UNLIMITED])
def test_chunks_are_close_to_float64_and_equal_their_tokens_one_by_one(library, dtype, lengths, num_new, heads, window):
    case = make_case(lengths, heads, 24, dtype, window, num_new)
    wide = replace(case, query=case.query.float())
    assert relative_error(wide.attend(library), case.expected()) < MAX_ERROR
    assert case.attend(library).equal(case.one_by_one(library))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_chunks_of_heads_of_any_width_equal_their_tokens_one_by_one(library, head_dim):
    case = make_case((70, 3), (6, 2), head_dim, num_new=(67, 2))
    assert case.attend(library).equal(case.one_by_one(library))


def test_slots_beyond_a_length_do_not_count(library):
    case = make_case((100, 40))
    expected = case.attend(library)
    beyond = case.contexts.slots[1, 40:]
    case.keys[beyond] = case.values[beyond] = float("nan")
    assert case.attend(library).equal(expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_sequences_do_not_depend_on_each_other(library, dtype):
    case = make_case(tuple(range(3, 200, 12)), dtype=dtype)
    together = case.attend(library)
    for i in range(len(case.query)):
        assert case.take([i]).attend(library).equal(together[i : i + 1])
    assert case.take([5, 2, 11]).attend(library).equal(together[[5, 2, 11]])


@pytest.mark.parametrize(
    ("lengths", "num_new"), [((400,), (1,)), ((300, 9, 77), (1, 1, 1)), ((300, 90, 9), (200, 90, 1))]
)
@pytest.mark.parametrize("heads", [(32, 8), (5, 1), (6, 2)])
def test_threads_do_not_change_a_bit(library, lengths, num_new, heads):
    case = make_case(lengths, heads, 128, num_new=num_new)
    before = torch.get_num_threads()
    try:
        found = []
        for num_threads in (1, 2, 3, 16):
            torch.set_num_threads(num_threads)
            found.append(case.attend(library))
    finally:
        torch.set_num_threads(before)
    assert all(other.equal(found[0]) for other in found)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_place_of_blocks_does_not_change_a_bit(library, dtype):
    case = make_case((90, 33), dtype=dtype)
    order = torch.randperm(len(case.keys), generator=torch.Generator().manual_seed(0))
    contexts = replace(case.contexts, slots=order.argsort()[case.contexts.slots])
    moved = Case(case.query, case.keys[order], case.values[order], contexts)
    assert moved.attend(library).equal(case.attend(library))


@pytest.mark.parametrize("name", ["query", "keys", "values"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_comes_out_and_stays_in_its_sequence(library, name, value):
    case = make_case((70, 40, 90))
    clean = case.attend(library)
    getattr(case, name)[1 if name == "query" else case.contexts.slots[1, 20]] = value
    found = case.attend(library)
    assert found[[0, 2]].equal(clean[[0, 2]])
    if name != "keys" or value != value:
        assert not found[1].isfinite().any()


def test_scores_of_minus_infinity_weigh_nothing(library):
    case = make_case((150,))
    case = replace(case, query=case.query.abs())
    case.keys[case.contexts.slots[0, :100]] = float("-inf")
    rest = replace(case, contexts=replace(case.contexts, window=50))
    assert relative_error(case.attend(library), rest.expected()) < MAX_ERROR


def test_no_sequences_give_no_rows(library):
    assert make_case((5, 6)).take([]).attend(library).shape == (0, 8, 32)


def test_queries_may_be_a_slice(library):
    case = make_case((20, 30))
    wide = torch.cat([case.query, case.query], dim=1)
    assert replace(case, query=wide[:, :8]).attend(library).equal(case.attend(library))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.ones(2, 8, 32).double()}, "query are torch.float64"),
        ({"query": torch.ones(2, 8, 32, device="meta")}, "on meta; three dimensions"),
        ({"query": torch.ones(2, 8, 33)}, "keys have 2 heads of 32; the query has 8 of 33"),
        ({"query": torch.ones(2, 7, 32)}, "keys have 2 heads of 32; the query has 7 of 32"),
        ({"query": torch.ones(3, 8, 32)}, r"2 rows of slots, 2 lengths, \(1, 1\) new tokens and 3 queries"),
        ({"values": torch.ones(8, 2, 32)}, r"keys are torch.float32 \[64, 2, 32\], values torch.float32 \[8, 2, 32\]"),
        ({"keys": torch.ones(64, 2, 64)[..., ::2]}, "contiguous ones are right"),
        ({"contexts": PagedContexts(torch.zeros(2, 20).int(), (1, 1), (20, 5), 9)}, "slots are torch.int32"),
        (
            {"contexts": PagedContexts(torch.zeros(2, 20).long(), (1, 1), (21, 5), 9)},
            r"\(21, 5\) long; 1 to 20 are right",
        ),
        (
            {"contexts": PagedContexts(torch.zeros(2, 20).long(), (1, 1), (20, 0), 9)},
            r"\(20, 0\) long; 1 to 20 are right",
        ),
        (
            {"contexts": PagedContexts(torch.full((2, 20), 64), (1, 1), (20, 5), 9)},
            "slots are 64 to 64; 0 to 63 are right",
        ),
        (
            {"contexts": PagedContexts(torch.full((2, 20), -1), (1, 1), (20, 5), 9)},
            "slots are -1 to -1; 0 to 63 are right",
        ),
    ],
)
def test_what_does_not_fit_is_refused(library, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(make_case((20, 5)), **changes).attend(library)
