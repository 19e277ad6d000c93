import torch

from expertmesh.engine.request import Request, Sequence
from expertmesh.engine.scheduler import Chunk
from expertmesh.engine.step_batch import build_batch
from expertmesh.model.sampling import SamplingParams

CPU = torch.device("cpu")


def sequence(tokens: list[int], num_computed: int, blocks: list[int]) -> Sequence:
    one = Sequence(Request(tuple(tokens), SamplingParams()), max_tokens=8, seed=0)
    one.num_computed, one.blocks = num_computed, blocks
    return one


def test_chunks_are_laid_out_one_after_the_other():
    decoding = sequence([10, 11, 12, 13, 14, 15], num_computed=5, blocks=[7, 2])
    middle = sequence(list(range(20, 40)), num_computed=3, blocks=[4, 0, 9, 1, 3])
    whole = sequence([50, 51], num_computed=0, blocks=[5])
    batch = build_batch([Chunk(decoding, 1), Chunk(middle, 6), Chunk(whole, 2)], 4)
    assert batch.token_ids.tolist() == [15, 23, 24, 25, 26, 27, 28, 50, 51]
    assert batch.positions.tolist() == [5, 3, 4, 5, 6, 7, 8, 0, 1]
    assert batch.slot_mapping.tolist() == [2 * 4 + 1, 4 * 4 + 3, 0, 1, 2, 3, 9 * 4, 5 * 4, 5 * 4 + 1]
    assert batch.query_lens == (1, 6, 2)
    assert batch.context_lens == (6, 9, 2)
    assert batch.block_tables.tolist() == [[7, 2, 0, 0, 0], [4, 0, 9, 1, 3], [5, 0, 0, 0, 0]]


def test_logits_are_wanted_of_sequences_that_have_no_token_left():
    begun, ended = sequence([1, 2, 3, 4], 0, [0]), sequence([5, 6, 7], 0, [1])
    assert build_batch([Chunk(begun, 3), Chunk(ended, 3)], 4).sample_rows.tolist() == [5]
    assert build_batch([Chunk(begun, 3)], 4).sample_rows.tolist() == []


def test_index_tensors_are_int64_even_when_empty():
    batch = build_batch([Chunk(sequence([1, 2], 0, [0]), 1)], 4)
    for tensor in (batch.token_ids, batch.positions, batch.slot_mapping, batch.block_tables, batch.sample_rows):
        assert tensor.dtype == torch.int64
