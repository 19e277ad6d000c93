from collections.abc import Sequence

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from expertmesh.model.sampler import sample
from expertmesh.model.sampling import SamplingParams

VOCAB = 12
NUM_DRAWS = 20_000


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(seed: int, rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    return 2 * torch.randn(rows, vocab, generator=generator(seed))


def draw(row: torch.Tensor, params: SamplingParams, seed: int, seen: Sequence[int] = ()) -> int:
    return int(sample(row.unsqueeze(0), [params], [seen], [generator(seed)]))


def reference(row: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities after temperature, top_k and top_p, token by token in float64."""
    scaled = (row.double() / params.temperature).tolist()
    order = sorted(range(VOCAB), key=lambda token: -scaled[token])[: params.top_k or VOCAB]
    weights = {token: torch.tensor(scaled[token]).double().exp().item() for token in order}
    whole = sum(weights.values())
    kept: dict[int, float] = {}
    for token in order:
        if sum(kept.values()) / whole >= params.top_p and params.top_p < 1:
            break
        kept[token] = weights[token]
    return torch.tensor([kept.get(token, 0.0) for token in range(VOCAB)], dtype=torch.float64) / sum(kept.values())


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=1.7, top_k=4),
        SamplingParams(temperature=1.0, top_p=0.7),
        SamplingParams(temperature=1.3, top_k=6, top_p=0.8),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(params: SamplingParams):
    row = logits(3)[0]
    shared = generator(0)
    rows = row.expand(NUM_DRAWS, VOCAB)
    tokens = sample(rows, [params] * NUM_DRAWS, [()] * NUM_DRAWS, [shared] * NUM_DRAWS)
    drawn = torch.bincount(tokens, minlength=VOCAB) / NUM_DRAWS
    expected = reference(row, params)
    assert (drawn - expected).abs().sum() / 2 < 0.02
    assert not drawn[expected == 0].any()


def test_temperature_zero_takes_the_most_probable():
    rows = logits(0, rows=5)
    tokens = sample(rows, [SamplingParams()] * 5, [()] * 5, [generator(0)] * 5)
    assert torch.equal(tokens, rows.argmax(dim=-1))


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=1.0, top_k=1), SamplingParams(temperature=1, top_p=1e-9)]
)
def test_keeping_one_token_is_greedy(params: SamplingParams):
    row = logits(1)[0]
    assert {draw(row, params, seed) for seed in range(50)} == {int(row.argmax())}


def test_repetition_penalty_is_that_of_transformers():
    row = logits(2)
    seen = [0, 3, 3, 7]
    for penalty in (0.5, 1.3, 5.0):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), row.clone()).argmax()
        assert draw(row[0], SamplingParams(repetition_penalty=penalty), 0, seen) == expected


def test_without_tokens_seen_there_is_nothing_to_penalise():
    row = logits(2)[0]
    assert draw(row, SamplingParams(repetition_penalty=1.3), 0, ()) == row.argmax()


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-46, 5e-324])
def test_the_smallest_temperatures_are_greedy(temperature: float):
    row = logits(6)[0]
    row[3] = row[8] = row.max() + 1
    for params in (SamplingParams(temperature=temperature), SamplingParams(temperature=temperature, top_p=0.999)):
        assert {draw(row, params, seed) for seed in range(40)} == {3, 8}


def test_the_greatest_values_keep_the_best_tokens():
    row = logits(7)[0]
    params = SamplingParams(temperature=1e300, top_k=3)
    assert {draw(row, params, seed) for seed in range(60)} == set(row.topk(3).indices.tolist())
    params = SamplingParams(temperature=1e-3, top_k=2**70)
    assert draw(row, params, 0) == row.argmax()


def test_equal_logits_are_drawn_equally_often_and_greedily_the_first_is_taken():
    rows = torch.zeros(NUM_DRAWS, 4)
    shared = generator(0)
    tokens = sample(rows, [SamplingParams(temperature=1.0)] * NUM_DRAWS, [()] * NUM_DRAWS, [shared] * NUM_DRAWS)
    assert (torch.bincount(tokens, minlength=4) / NUM_DRAWS - 0.25).abs().max() < 0.02
    assert draw(rows[0], SamplingParams(), 0) == 0


def test_a_seed_is_reproducible_and_seeds_differ():
    row = logits(8, vocab=300)[0] / 4
    params = SamplingParams(temperature=1.0)
    first, again = ([draw(row, params, seed) for seed in range(30)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 10


def test_a_row_does_not_depend_on_its_neighbours():
    rows = logits(4, rows=16, vocab=300)
    params = [
        SamplingParams(
            temperature=i % 4 * 0.6, top_k=i % 3 * 10, top_p=(1.0, 0.8)[i % 2], repetition_penalty=1 + i % 5 * 0.1
        )
        for i in range(16)
    ]
    seen = [list(range(i)) for i in range(16)]
    together = sample(rows, params, seen, [generator(i) for i in range(16)])
    alone = [draw(rows[i], params[i], i, seen[i]) for i in range(16)]
    assert together.tolist() == alone


def test_the_logits_are_left_as_they_were():
    rows = logits(5, rows=2)
    before = rows.clone()
    sample(rows, [SamplingParams(temperature=1.0, repetition_penalty=2.0)] * 2, [[1, 2]] * 2, [generator(0)] * 2)
    assert torch.equal(rows, before)
