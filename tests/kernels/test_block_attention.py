"""The twin of the attention kernels: against attention that gathers slots, and against a softmax written out."""

from dataclasses import replace

import pytest
import torch

from expertmesh.kernels.block_attention import BlockContexts, attend_blocks
from expertmesh.kernels.paged_attention import PagedContexts, attend_paged
from expertmesh.kernels.reference import ReferenceBackend

BLOCK_SIZE, NUM_BLOCKS, HEADS, KV_HEADS, WIDTH = 16, 12, 4, 2, 8
# Positions and new tokens of sequences: fresh, continued, decoding, in the middle of blocks and at their ends.
DECODE = [(1, 1), (16, 1), (17, 1), (40, 1)]
MIXED = [(20, 20), (33, 5), (16, 1), (32, 16)]


def make_contexts(sequences: list[tuple[int, int]], window: int | None = None) -> BlockContexts:
    counts = [-(-length // BLOCK_SIZE) for length, _ in sequences]
    blocks = torch.randperm(NUM_BLOCKS, generator=torch.Generator().manual_seed(0)).split(
        [*counts, NUM_BLOCKS - sum(counts)]
    )
    tables = torch.full((len(sequences), max(counts) + 1), -1)
    for table, own in zip(tables, blocks, strict=False):
        table[: len(own)] = own
    return BlockContexts(
        block_tables=tables.int(),
        lengths=torch.tensor([length for length, _ in sequences], dtype=torch.int32),
        first_rows=torch.tensor([0] + [num_new for _, num_new in sequences]).cumsum(0).int(),
        block_size=BLOCK_SIZE,
        window=window,
        is_decode=all(num_new == 1 for _, num_new in sequences),
    )


def make_tensors(num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    keys, values = torch.randn(2, NUM_BLOCKS * BLOCK_SIZE, KV_HEADS, WIDTH, generator=generator)
    return torch.randn(num_rows, HEADS, WIDTH, generator=generator), keys, values


def slots_of(contexts: BlockContexts) -> torch.Tensor:
    return (contexts.block_tables.long()[:, :, None] * BLOCK_SIZE + torch.arange(BLOCK_SIZE)).flatten(1)


def attend_by_hand(query, keys, values, contexts: BlockContexts) -> torch.Tensor:
    """Token by token and head by head."""
    attended = torch.zeros_like(query)
    firsts = contexts.first_rows.tolist()
    for sequence, length in enumerate(contexts.lengths.tolist()):
        for row in range(firsts[sequence], firsts[sequence + 1]):
            position = length - firsts[sequence + 1] + row
            start = max(0, position + 1 - (contexts.window or length))
            slots = slots_of(contexts)[sequence, start : position + 1]
            for head in range(HEADS):
                kv_head = head * KV_HEADS // HEADS
                weights = (keys[slots, kv_head] @ query[row, head] * WIDTH**-0.5).softmax(0)
                attended[row, head] = weights @ values[slots, kv_head]
    return attended


@pytest.mark.parametrize("window", [None, 1, 7, 16, 100])
@pytest.mark.parametrize("sequences", [DECODE, MIXED], ids=["decode", "mixed"])
def test_tokens_see_their_sequence_up_to_themselves(sequences, window):
    contexts = make_contexts(sequences, window)
    tensors = make_tensors(int(contexts.first_rows[-1]))
    found = attend_blocks(*tensors, contexts)
    torch.testing.assert_close(found, attend_by_hand(*tensors, contexts))
    by_slots = PagedContexts(
        slots=slots_of(contexts).clamp(min=0),
        num_new=tuple(num_new for _, num_new in sequences),
        lengths=tuple(length for length, _ in sequences),
        window=window or 10**6,
    )
    torch.testing.assert_close(found, attend_paged(*tensors, by_slots))


def test_a_decode_step_may_be_run_as_any_other():
    contexts = make_contexts(DECODE)
    tensors = make_tensors(len(DECODE))
    torch.testing.assert_close(
        attend_blocks(*tensors, contexts), attend_blocks(*tensors, replace(contexts, is_decode=False))
    )


@pytest.mark.parametrize("sequences", [DECODE, MIXED], ids=["decode", "mixed"])
def test_padding_is_zero_and_changes_nothing(sequences):
    contexts, padded = make_contexts(sequences), make_contexts([*sequences, (0, 1), (0, 1)])
    tensors = make_tensors(int(padded.first_rows[-1]))
    found = attend_blocks(*tensors, padded)
    assert not found[-2:].any()
    torch.testing.assert_close(found[:-2], attend_blocks(tensors[0][:-2], *tensors[1:], contexts))


def test_rows_behind_the_last_sequence_are_zero():
    contexts = make_contexts(MIXED)
    num_rows = int(contexts.first_rows[-1])
    tensors = make_tensors(num_rows + 3)
    found = attend_blocks(*tensors, contexts)
    assert not found[num_rows:].any()
    assert found[:num_rows].equal(attend_blocks(tensors[0][:num_rows], *tensors[1:], contexts))


def test_slots_that_were_never_written_count_for_nothing():
    contexts = make_contexts(MIXED)
    query, keys, values = make_tensors(int(contexts.first_rows[-1]))
    expected = attend_blocks(query, keys, values, contexts)
    written = torch.cat(
        [slots[:length] for slots, length in zip(slots_of(contexts), contexts.lengths.tolist(), strict=True)]
    )
    unwritten = torch.ones(len(keys), dtype=torch.bool).index_fill(0, written, False)
    keys[unwritten], values[unwritten] = torch.nan, torch.inf
    assert attend_blocks(query, keys, values, contexts).equal(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_have_the_dtype_of_the_queries_and_go_where_they_are_wanted(dtype):
    contexts = make_contexts(MIXED)
    tensors = [part.to(dtype) for part in make_tensors(int(contexts.first_rows[-1]))]
    expected = attend_blocks(*[part.float() for part in tensors], contexts).to(dtype)
    out = torch.empty_like(expected)
    assert attend_blocks(*tensors, contexts, out) is out
    assert out.equal(expected)
    assert ReferenceBackend(torch.device("cpu")).attend(*tensors, contexts).equal(expected)
