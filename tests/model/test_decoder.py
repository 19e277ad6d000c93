from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from checkpoints import DENSE_MODEL, OLMOE, QWEN3_MOE
from isas import ISAS
from oracle import oracle

from expertmesh.kernels.backend import Backend
from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.reference import ReferenceBackend

ODD_CONFIGS = {
    "plain": {},
    "one kv head": {"num_key_value_heads": 1},
    "as many kv heads as heads": {"num_key_value_heads": 4},
    "head_dim of its own": {"head_dim": 24},
    "three layers, five experts, top-3": {"num_hidden_layers": 3, "num_local_experts": 5, "num_experts_per_tok": 3},
    "top-1": {"num_experts_per_tok": 1},
    "odd vocabulary, tied": {"vocab_size": 301, "tie_word_embeddings": True},
    "other rope base": {"rope_theta": 10000.0},
    "twice as far": {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
    # transformers computes these only where a head_dim is given.
    "yarn": {
        "head_dim": 32,
        "rope_parameters": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 32},
    },
    # 23 tokens are within the 512 that the model is for; beyond, nothing is served.
    "dynamic": {"head_dim": 32, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
    "a window of a fine-tune": {"sliding_window": 7},
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe, tied, not renormalised, one kv head": {
        **QWEN3_MOE,
        "tie_word_embeddings": True,
        "norm_topk_prob": False,
        "num_key_value_heads": 1,
    },
    "qwen3_moe, yarn": {
        **QWEN3_MOE,
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
    "olmoe": OLMOE,
    "olmoe, renormalised, not clipped, as many kv heads as heads": {
        **OLMOE,
        "norm_topk_prob": True,
        "clip_qkv": None,
        "num_key_value_heads": 4,
    },
}
# Dense matrices of each type, codes beside them, and a dense model with a window.
CHECKPOINTS = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "awq": {"group_size": 64},
    "window": {**DENSE_MODEL, "sliding_window": 7},
    "qwen3_moe": QWEN3_MOE,
    "olmoe": OLMOE,
}


@dataclass(frozen=True)
class Kernels:
    """What computes, with activations of which type, and how near two of its results must be."""

    make: Callable[[], Backend]
    dtype: torch.dtype
    tolerance: float

    def make_rig(self, make_rig, directory):
        return make_rig(directory, self.dtype, self.make())

    def assert_same(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=self.tolerance, rtol=0)


def on_isas(dtype: torch.dtype, activation_bits: int = 16):
    """The C kernels of every instruction set: the same in every bit."""
    name = f"{str(dtype).removeprefix('torch.')}, {activation_bits} bits"
    return [
        pytest.param(
            Kernels(partial(CpuBackend, activation_bits=activation_bits, isa=isa.values[0]), dtype, 0.0),
            marks=isa.marks,
            id=f"{isa.values[0]}, {name}",
        )
        for isa in ISAS
    ]


KERNELS = [
    *on_isas(torch.float32),
    *on_isas(torch.bfloat16),
    *on_isas(torch.float32, activation_bits=8),
    # torch's products depend on the number of rows; few may be rounded to bfloat16, which more are not.
    pytest.param(Kernels(partial(CpuBackend, is_native=False), torch.float32, 6e-2), id="without C kernels"),
    pytest.param(Kernels(partial(ReferenceBackend, torch.device("cpu")), torch.float32, 1e-5), id="reference"),
]


def prompts(vocab_size: int, count: int, length: int) -> list[list[int]]:
    return torch.randint(0, vocab_size, (count, length), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.mark.parametrize("overrides", ODD_CONFIGS.values(), ids=ODD_CONFIGS.keys())
def test_logits_equal_those_of_transformers(make_mixtral, make_rig, overrides):
    checkpoint = make_mixtral(**overrides)
    rig = make_rig(checkpoint.directory)
    tokens = prompts(rig.config.vocab_size, 2, 23)
    with torch.no_grad():
        expected = oracle(checkpoint)(torch.tensor(tokens)).logits  # [2, 23, V]
    logits = rig.step({0: tokens[0], 1: tokens[1]}).view(expected.shape)
    assert (logits - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_awq_logits_equal_those_of_its_dequantized_weights(make_mixtral, make_rig, group_size):
    checkpoint = make_mixtral(group_size=group_size)
    rig = make_rig(checkpoint.directory)
    tokens = prompts(512, 1, 23)
    with torch.no_grad():
        expected = oracle(checkpoint)(torch.tensor(tokens)).logits[0]
    assert (rig.step({0: tokens[0]}) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("model", [{}, QWEN3_MOE, OLMOE], ids=["mixtral", "qwen3_moe", "olmoe"])
def test_greedy_ids_equal_those_of_transformers_for_128_tokens_on_20_prompts(make_mixtral, make_rig, model):
    checkpoint = make_mixtral(**model)
    rig = make_rig(checkpoint.directory)
    tokens = prompts(512, 20, 9)
    model = oracle(checkpoint)
    expected = model.generate(
        torch.tensor(tokens), max_new_tokens=128, min_new_tokens=128, do_sample=False, eos_token_id=None, pad_token_id=0
    )[:, 9:]
    ids = rig.step(dict(enumerate(tokens))).view(20, 9, -1)[:, -1].argmax(-1)
    produced = [ids]
    for _ in range(127):
        ids = rig.step({i: [token] for i, token in enumerate(ids.tolist())}).argmax(-1)
        produced.append(ids)
    assert torch.equal(torch.stack(produced, dim=1), expected)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
@pytest.mark.parametrize("kernels", KERNELS)
def test_chunked_equals_whole(make_mixtral, make_rig, kernels, checkpoint):
    directory = make_mixtral(**checkpoint).directory
    tokens = prompts(512, 1, 90)[0]
    whole = kernels.make_rig(make_rig, directory).step({0: tokens})
    for sizes in ([43, 47], [1] * 90, [10, 1, 1, 78], [64, 26]):
        rig = kernels.make_rig(make_rig, directory)
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        chunked = torch.cat([rig.step({0: tokens[s : s + n]}) for s, n in zip(starts, sizes, strict=True)])
        kernels.assert_same(chunked, whole)


@pytest.mark.parametrize("sizes", [[30], [13, 17], [1] * 30, [10, 1, 1, 18]])
def test_a_sliding_window_hides_what_is_too_far_back(make_mixtral, make_rig, sizes):
    checkpoint = make_mixtral(**DENSE_MODEL, sliding_window=7)
    tokens = prompts(512, 2, 30)
    with torch.no_grad():
        expected = oracle(checkpoint)(torch.tensor(tokens)).logits  # [2, 30, V]
    rig = make_rig(checkpoint.directory)
    rig.step({1: tokens[1][:3]})
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    steps = [
        rig.step({0: tokens[0][s : s + n], 1: tokens[1][3 + i : 4 + i]})
        for i, (s, n) in enumerate(zip(starts, sizes, strict=True))
        if i < 20
    ]
    for i, logits in enumerate(steps):
        assert (logits[:-1] - expected[0, starts[i] : starts[i] + sizes[i]]).abs().max() <= 1e-4
        assert (logits[-1] - expected[1, 3 + i]).abs().max() <= 1e-4


@pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
@pytest.mark.parametrize("kernels", KERNELS)
def test_batched_equals_single(make_mixtral, make_rig, kernels, checkpoint):
    directory = make_mixtral(**checkpoint).directory
    long, short, *chunks = prompts(512, 9, 40)
    alone = [kernels.make_rig(make_rig, directory).step({0: tokens}) for tokens in (long, short[:7], *chunks)]
    rig = kernels.make_rig(make_rig, directory)
    rig.step({0: long[:39], 1: short[:6], **{2 + i: tokens[: 3 + i] for i, tokens in enumerate(chunks)}})
    together = rig.step({0: long[39:], 1: short[6:7], **{2 + i: tokens[3 + i :] for i, tokens in enumerate(chunks)}})
    expected = [alone[0][39:], alone[1][6:], *(logits[3 + i :] for i, logits in enumerate(alone[2:]))]
    kernels.assert_same(together, torch.cat(expected))


def test_bfloat16_is_close_to_float32(make_mixtral, make_rig):
    checkpoint = make_mixtral(dtype=torch.bfloat16)
    tokens = prompts(512, 1, 16)[0]
    wide = make_rig(checkpoint.directory).step({0: tokens})
    narrow = make_rig(checkpoint.directory, torch.bfloat16).step({0: tokens})
    assert narrow.dtype == torch.float32
    assert (narrow - wide).norm() / wide.norm() < 0.05
