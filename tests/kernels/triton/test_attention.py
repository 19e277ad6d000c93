"""Attention in Triton against its twin, and against itself to the bit; interpreted, and on a GPU if there is one."""

from dataclasses import replace

import pytest
import torch
from attention_cases import (
    MAX_ERRORS,
    Step,
    attends_in_larger_tensors,
    captures_a_graph,
    decodes_like_a_mixed_step,
    parts_that_differ,
    refusal_of,
    sequences_that_differ_alone,
    step_error,
)

# Around the ends of blocks (16) and spans (256); padding has no positions.
DECODE = Step([(1, 1), (16, 1), (17, 1), (255, 1), (256, 1), (0, 1), (257, 1), (600, 1)])
MIXED = Step([(20, 20), (300, 40), (0, 3), (257, 1), (70, 70), (256, 2), (1, 1)], num_unused_rows=3)
SHORT_DECODE, SHORT_MIXED = Step([(40, 1), (0, 1), (17, 1)]), Step([(40, 33), (17, 1)])
# Longer than the spans of all stripes together.
LONG = Step([(4500, 1)], heads=2, kv_heads=1)
STEPS = {
    "decode": DECODE,
    "mixed": MIXED,
    "decode, window": replace(DECODE, window=100),
    "mixed, window": replace(MIXED, window=33),
    "one token": Step([(1, 1)]),
    "only padding": Step([(0, 1), (0, 1)]),
    "long": LONG,
    "long, window": replace(LONG, sequences=[(9000, 1)], window=600),
    "long, mixed, window": replace(LONG, sequences=[(4500, 3)], window=600),
    "blocks of 64": replace(SHORT_MIXED, block_size=64),
    "blocks of 256": replace(SHORT_DECODE, block_size=256),
    **{
        f"{heads} heads of {width} for {kv_heads}, {name}": replace(step, heads=heads, kv_heads=kv_heads, width=width)
        for name, step in (("decode", SHORT_DECODE), ("mixed", SHORT_MIXED))
        for heads, kv_heads, width in ((3, 3, 64), (6, 2, 80), (5, 1, 96), (8, 2, 128), (16, 1, 192), (12, 2, 256))
    },
}
# The interpreter is slow without tensor cores, whose products are cut into small slices.
OTHER_DTYPES = {
    f"{name}, {dtype}": replace(step, dtype=dtype, width=96)
    for dtype in ("bfloat16", "float32")
    for name, step in (("decode", SHORT_DECODE), ("mixed", SHORT_MIXED))
}
ON_A_GPU = {f"{name}, {dtype}": replace(step, dtype=dtype) for name, step in STEPS.items() for dtype in MAX_ERRORS}
# One chunk, small chunks, drafts and single tokens, over the end of a span and of blocks.
PROMPT, SIZES = Step([(290, 290)]), [1, 2, 30, 100, 1, 121, 1, 1, 5, 28]

both = pytest.mark.parametrize("step", [DECODE, MIXED, replace(MIXED, window=33)], ids=["decode", "mixed", "window"])
gpu_dtypes = pytest.mark.parametrize("dtype", MAX_ERRORS)


@pytest.mark.parametrize("name", STEPS | OTHER_DTYPES)
def test_kernels_do_what_their_twin_does(name, interpreted):
    step = (STEPS | OTHER_DTYPES)[name]
    assert interpreted(step_error, step, "cpu") < MAX_ERRORS[step.dtype]


@pytest.mark.parametrize("step", [SHORT_DECODE, SHORT_MIXED], ids=["decode", "mixed"])
def test_tensors_may_be_parts_of_larger_ones(step, interpreted):
    assert interpreted(attends_in_larger_tensors, step, "cpu")


@both
def test_a_sequence_has_the_same_bits_alone_and_in_company(step, interpreted):
    assert interpreted(sequences_that_differ_alone, step, "cpu") == []


@pytest.mark.parametrize(
    "step",
    [
        DECODE,
        replace(DECODE, window=100),
        replace(LONG, sequences=[(9000, 1)], window=600),
        replace(SHORT_DECODE, dtype="float32"),
    ],
    ids=["all", "window", "long", "float32"],
)
def test_a_token_has_the_same_bits_in_decode_steps_and_others(step, interpreted):
    assert interpreted(decodes_like_a_mixed_step, step, "cpu")


@pytest.mark.parametrize("step", [PROMPT, replace(PROMPT, window=50)], ids=["all", "window"])
def test_tokens_have_the_same_bits_in_chunks_drafts_and_decode_steps(step, interpreted):
    assert interpreted(parts_that_differ, step, SIZES, "cpu") == []


@pytest.mark.parametrize(
    ("changes", "context_changes", "reason"),
    [
        ({"keys": torch.zeros(64, 3, 64).half()}, {}, "do not fit"),
        ({"query": torch.zeros(2, 4, 64)}, {}, "must be alike"),
        ({"query": torch.zeros(2, 64, 4).half().mT}, {}, "one after the other"),
        ({}, {"lengths": torch.tensor([5, 3])}, "int32"),
        ({"query": torch.zeros(3, 4, 64).half()}, {}, "2 sequences has 3 tokens"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(changes, context_changes, reason, interpreted):
    assert reason in interpreted(refusal_of, changes, context_changes)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_A_GPU)
def test_kernels_on_a_gpu_do_what_their_twin_does(name):
    assert step_error(ON_A_GPU[name], "cuda") < MAX_ERRORS[ON_A_GPU[name].dtype]


@pytest.mark.gpu
@gpu_dtypes
@both
def test_a_sequence_on_a_gpu_has_the_same_bits_alone_and_in_company(step, dtype):
    assert sequences_that_differ_alone(replace(step, dtype=dtype, width=128), "cuda") == []


@pytest.mark.gpu
@gpu_dtypes
@pytest.mark.parametrize("width", [64, 128, 256])
def test_tokens_on_a_gpu_have_the_same_bits_in_chunks_drafts_and_decode_steps(width, dtype):
    assert decodes_like_a_mixed_step(replace(DECODE, dtype=dtype, width=width), "cuda")
    assert parts_that_differ(replace(PROMPT, dtype=dtype, width=width), SIZES, "cuda") == []


@pytest.mark.gpu
@pytest.mark.parametrize("step", [DECODE, MIXED], ids=["decode", "mixed"])
def test_a_graph_of_a_step_runs_with_other_contents(step):
    assert captures_a_graph(step)
