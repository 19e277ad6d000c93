"""What the decoder and the sampler leave to torch: a row's result may not depend on the others, bit by bit."""

import random

import pytest
import torch
from rows import run_each_alone

from expertmesh.kernels.step_ops import TORCH_STEP_OPS, rotate
from expertmesh.model.adjust import SamplingRow
from expertmesh.model.rows import nearest_to_zero, total
from expertmesh.model.sampler import Sampler, score
from expertmesh.model.sampling import SamplingParams

WIDTHS = (8, 12, 301, 1024, 4096)
TYPES = (torch.float32, torch.bfloat16)
COUNTS = (2, 3, 5, 8, 13, 33, 40)


def normalise_heads(x: torch.Tensor, width: int) -> torch.Tensor:
    """Normalise what fits of ``x`` [T, W] in heads of ``width``, as queries that lie beside keys and values."""
    heads = torch.cat([x, x], dim=-1)[:, : x.shape[-1] // width * width].unflatten(1, (-1, width))
    TORCH_STEP_OPS.normalise_heads(heads, torch.ones(width, dtype=x.dtype), 1e-6)
    return heads.flatten(1)


OPERATIONS = {
    "softmax": lambda x: x.float().softmax(-1),
    "log_softmax": lambda x: x.float().log_softmax(-1),
    "norm": lambda x: TORCH_STEP_OPS.add_and_normalise(x.clone(), x, torch.ones(x.shape[-1], dtype=x.dtype), 1e-5),
    "heads": lambda x: normalise_heads(x, 4),
    "whole heads": lambda x: normalise_heads(x, x.shape[-1]),
    "gate": lambda x: torch.cat(TORCH_STEP_OPS.choose_experts(x, 2), dim=-1),
    "log": lambda x: x.double().abs().log(),
    "entropy": lambda x: torch.special.entr(x.double().abs()),
    "total": lambda x: total(x.double()),
    "nearest": lambda x: nearest_to_zero(x.float(), 5),
}


@pytest.fixture(params=[1, 2, 3])
def num_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1]))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", TYPES)
def test_an_operation_takes_each_row_by_itself(num_threads, name, width, dtype):
    run_each_alone(OPERATIONS[name], draw(max(COUNTS), width).to(dtype), COUNTS)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_head_is_turned_by_itself(num_threads, dtype):
    x, angles = draw(40, 3, 24).to(dtype), draw(40, 1, 24).to(dtype)
    whole = rotate(x, angles.cos(), angles.sin())
    for count in COUNTS:
        assert rotate(x[:count], angles.cos()[:count], angles.sin()[:count]).equal(whole[:count])


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0.0, 0.7, 1.3]),
        top_k=rng.choice([0, 0, 7]),
        top_p=rng.choice([1.0, 0.9]),
        typical_p=rng.choice([1.0, 0.8]),
        min_p=rng.choice([0.0, 0.05]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        frequency_penalty=rng.choice([0.0, 0.5]),
        logit_bias=rng.choice([(), ((3, 2.5),)]),
        logprobs=rng.choice([None, 0, 4]),
    )


@pytest.mark.parametrize("vocab", [301, 2048, 32003])
def test_a_token_is_drawn_and_scored_by_itself(num_threads, vocab):
    rng, logits = random.Random(vocab), 4 * draw(24, vocab)
    rows = [
        SamplingRow(random_params(rng), [rng.randrange(vocab)], [rng.randrange(vocab)], rng.random())
        for _ in range(len(logits))
    ]
    sample = Sampler().sample
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]
    assert together[5:12] == sample(logits[5:12], rows[5:12])
    ids = [choice.token_id for choice in together]
    assert score(logits, ids, 3) == [score(logits[i : i + 1], [ids[i]], 3)[0] for i in range(len(ids))]
