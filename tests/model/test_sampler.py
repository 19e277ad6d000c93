import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from expertmesh.engine.noise import noise
from expertmesh.model.adjust import SamplingRow
from expertmesh.model.choice import Choice
from expertmesh.model.sampler import Sampler, score
from expertmesh.model.sampling import SamplingParams

VOCAB = 12
NUM_DRAWS = 20_000
JUST_BELOW_1 = math.nextafter(1, 0)


def logits(seed: int, rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    return 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def sample(scores: torch.Tensor, rows: Sequence[SamplingRow]) -> list[Choice]:
    return Sampler().sample(scores, rows)


def row(params: SamplingParams, noise: float = 0.0, **fields: Any) -> SamplingRow:
    return SamplingRow(params, fields.pop("prompt_ids", ()), fields.pop("output_ids", ()), noise, **fields)


def draw(scores: torch.Tensor, params: SamplingParams, noise: float = 0.0, **fields: Any) -> int:
    return sample(scores.unsqueeze(0), [row(params, noise, **fields)])[0].token_id


def drawn_shares(scores: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """How often each token comes, with the noise of one seed at many positions."""
    rows = [row(params, noise(7, position)) for position in range(NUM_DRAWS)]
    tokens = [choice.token_id for choice in sample(scores.expand(NUM_DRAWS, len(scores)), rows)]
    return torch.bincount(torch.tensor(tokens), minlength=len(scores)) / NUM_DRAWS


def assert_drawn_from(expected: torch.Tensor, scores: torch.Tensor, params: SamplingParams, **fields: Any) -> None:
    """Each token is the first at which the ``expected`` probabilities so far exceed the noise."""
    noises = torch.tensor([noise(1, position) for position in range(300)], dtype=torch.float64)
    rows = [row(params, at, **fields) for at in noises.tolist()]
    tokens = [choice.token_id for choice in sample(scores.expand(len(rows), len(scores)), rows)]
    assert tokens == torch.searchsorted(expected.double().cumsum(dim=-1), noises, right=True).tolist()


def reference(scores: list[float], params: SamplingParams) -> list[float]:
    """Probabilities after temperature, top_k, top_p, typical_p and min_p, token by token in float64."""
    best = max(scores)
    left = {token: math.exp((value - best) / params.temperature) for token, value in enumerate(scores)}

    def keep(order: list[int], enough: float) -> None:
        """Keep tokens in ``order`` until their shares reach ``enough``."""
        whole, kept = sum(left.values()), 0.0
        for token in order:
            share = left[token] / whole
            if kept >= enough:
                del left[token]
            kept += share

    def by_probability() -> list[int]:
        return sorted(left, key=lambda token: (-scores[token], token))

    if params.top_k:
        for token in by_probability()[params.top_k :]:
            del left[token]
    if params.top_p < 1:
        keep(by_probability(), params.top_p)
    if params.typical_p < 1:
        whole = sum(left.values())
        surprise = {token: -math.log(weight / whole) for token, weight in left.items()}
        entropy = sum(left[token] / whole * surprise[token] for token in left)
        keep(sorted(by_probability(), key=lambda token: abs(surprise[token] - entropy)), params.typical_p)
    most = max(left.values())
    left = {token: weight for token, weight in left.items() if weight >= params.min_p * most}
    return [left.get(token, 0.0) / sum(left.values()) for token in range(len(scores))]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.7, "top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"typical_p": 0.5},
        {"temperature": 1.3, "top_k": 6, "top_p": 0.8},
        {"temperature": 2.0, "top_p": 0.9, "typical_p": 0.8},
        {"temperature": 1.5, "top_k": 9, "top_p": 0.95, "typical_p": 0.9, "min_p": 0.1},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(fields: dict[str, Any]):
    scores = logits(3)[0]
    params = SamplingParams(**{"temperature": 1.0, **fields})
    shares = drawn_shares(scores, params)
    expected = torch.tensor(reference(scores.tolist(), params))
    assert (shares - expected).abs().sum() / 2 < 0.02
    assert not shares[expected == 0].any()


def test_draws_are_those_of_the_reference_one_by_one():
    scores, params = logits(5)[0], SamplingParams(temperature=1.2, top_k=8, top_p=0.9)
    assert_drawn_from(torch.tensor(reference(scores.tolist(), params)), scores, params)


def test_temperature_zero_takes_the_most_probable_and_the_first_of_equals():
    rows = logits(0, rows=5)
    rows[2, 4] = rows[2, 9] = rows[2].max() + 1
    tokens = [choice.token_id for choice in sample(rows, [row(SamplingParams())] * 5)]
    assert tokens == rows.argmax(dim=-1).tolist()
    assert tokens[2] == 4


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"typical_p": 1e-9, "top_k": 1}])
def test_keeping_one_token_is_greedy(fields: dict[str, Any]):
    scores = logits(1)[0]
    drawn = {draw(scores, SamplingParams(temperature=1.0, **fields), at / 50) for at in range(50)}
    assert drawn == {int(scores.argmax())}


def test_repetition_penalty_is_that_of_transformers():
    scores = logits(2)
    for penalty in (0.5, 1.3, 5.0):
        expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([[0, 3, 3, 7]]), scores.clone())[0]
        params = SamplingParams(temperature=1.0, repetition_penalty=penalty)
        assert_drawn_from(expected.softmax(dim=-1), scores[0], params, prompt_ids=(0, 3), output_ids=[3, 7])


def test_frequency_and_presence_count_the_output_only():
    scores, output = logits(2)[0], [3, 3, 5, 3, 7]
    expected = scores.double().clone()
    for token, count in Counter(output).items():
        expected[token] -= 0.4 * count + 0.7
    params = SamplingParams(temperature=1.0, frequency_penalty=0.4, presence_penalty=0.7)
    assert_drawn_from(expected.softmax(dim=-1), scores, params, prompt_ids=(0, 0, 1), output_ids=output)


def test_without_tokens_seen_there_is_nothing_to_penalise():
    scores = logits(2)[0]
    params = SamplingParams(repetition_penalty=1.3, frequency_penalty=2.0, presence_penalty=2.0)
    assert draw(scores, params) == scores.argmax()


def test_bias_is_added_to_logits():
    scores = logits(4)[0]
    assert draw(scores, SamplingParams(logit_bias=((6, 100.0),))) == 6
    best = int(scores.argmax())
    assert draw(scores, SamplingParams(logit_bias=((best, -100.0),))) == scores.topk(2).indices[1]
    expected = scores.clone()
    expected[1] += 2.5
    assert_drawn_from(expected.softmax(dim=-1), scores, SamplingParams(temperature=1.0, logit_bias=((1, 2.5),)))


@pytest.mark.parametrize("fields", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9, "typical_p": 0.9}])
def test_banned_and_disallowed_tokens_never_come(fields: dict[str, Any]):
    params = SamplingParams(**fields, logit_bias=((1, 100.0), (2, 100.0)))
    allowed = np.ones(VOCAB, dtype=np.bool_)
    allowed[[2, 3]] = False
    allowed.setflags(write=False)
    for at in (*(step / 50 for step in range(50)), JUST_BELOW_1):
        assert draw(logits(6)[0], params, at, banned_ids=(1, 4), allowed=allowed) not in {1, 2, 3, 4}


@pytest.mark.parametrize("fields", [{}, {"top_k": 3}, {"top_p": 0.5}, {"typical_p": 0.5}, {"min_p": 0.5}])
@pytest.mark.parametrize("at", [0.0, 0.5, JUST_BELOW_1])
def test_the_only_token_left_comes(fields: dict[str, Any], at: float):
    only = np.arange(VOCAB) == 5
    for temperature in (0.0, 1e-38, 1.0, 1e38):
        assert draw(logits(6)[0], SamplingParams(temperature=temperature, **fields), at, allowed=only) == 5


def test_nothing_left_gives_some_token_and_leaves_neighbours_alone():
    nothing = np.zeros(VOCAB, dtype=np.bool_)
    params = SamplingParams(temperature=1.0, top_p=0.9, typical_p=0.9)
    rows = [row(params, 0.3), row(params, 0.3, allowed=nothing), row(SamplingParams(), allowed=nothing)]
    first, *others = sample(logits(9).expand(3, VOCAB), rows)
    assert first.token_id == draw(logits(9)[0], params, 0.3)
    assert all(0 <= choice.token_id < VOCAB for choice in others)


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-46, 5e-324])
@pytest.mark.parametrize("fields", [{}, {"top_p": 0.999}, {"typical_p": 0.999}, {"min_p": 0.1}, {"top_k": 5}])
def test_the_smallest_temperatures_are_greedy(temperature: float, fields: dict[str, Any]):
    scores = logits(6)[0]
    scores[3] = scores[8] = scores.max() + 1
    params = SamplingParams(temperature=temperature, **fields)
    assert {draw(scores, params, at / 40) for at in range(40)} == {3, 8}


def test_the_greatest_values_keep_the_best_tokens():
    scores = logits(7)[0]
    for temperature in (1e38, 1e300):
        params = SamplingParams(temperature=temperature, top_k=3)
        assert {draw(scores, params, at / 60) for at in range(60)} == set(scores.topk(3).indices.tolist())
    assert draw(scores, SamplingParams(temperature=1e-3, top_k=2**70)) == scores.argmax()


@pytest.mark.parametrize("penalty", [5e-324, 1e-38, 1e38, 1.7e308])
def test_the_greatest_penalties_leave_numbers(penalty: float):
    scores = torch.tensor([3.0, -3.0, 0.0, 2.0])
    params = SamplingParams(temperature=1.0, repetition_penalty=penalty)
    expected = {0} if penalty < 1 else {2, 3}
    assert {draw(scores, params, at / 40, prompt_ids=(0, 1, 2)) for at in range(40)} <= expected | {0}


def test_the_greatest_logits_are_drawn_from():
    scores = torch.tensor([3e38, -3e38, 3e38, 0.0])
    for params in (SamplingParams(temperature=1.0), SamplingParams(temperature=0.1, top_p=0.99, typical_p=0.99)):
        assert {draw(scores, params, at / 40) for at in range(40)} == {0, 2}


@pytest.mark.parametrize("fields", [{}, {"top_k": 3}, {"top_p": 0.6}, {"typical_p": 0.6}, {"min_p": 1.0}], ids=str)
def test_equal_logits_are_drawn_equally_often_the_first_are_kept(fields: dict[str, Any]):
    params = SamplingParams(temperature=1.0, **fields)
    num_kept = 3 if "min_p" not in fields and fields else 5
    shares = drawn_shares(torch.zeros(5), params)
    assert (shares[:num_kept] - 1 / num_kept).abs().max() < 0.02
    assert not shares[num_kept:].any()


@pytest.mark.parametrize("fields", [{}, {"top_k": 5}, {"top_p": 0.9}, {"typical_p": 0.9}, {"min_p": 0.05}], ids=str)
def test_the_greatest_noise_draws_a_token_that_may_come(fields: dict[str, Any]):
    params = SamplingParams(temperature=0.7, **fields)
    for seed in range(30):
        scores = logits(seed, vocab=300)[0]
        scores[-5:] = -torch.inf
        last = max(token for token, share in enumerate(reference(scores.tolist()[:-5], params)) if share > 0)
        assert draw(scores, params, JUST_BELOW_1) == last


def test_logprobs_are_those_of_the_raw_distribution():
    rows = logits(8, rows=4, vocab=50)
    wanted = (None, 0, 3, 20)
    params = [SamplingParams(temperature=0.1, logit_bias=((7, 100.0),), logprobs=count) for count in wanted]
    raw = rows.log_softmax(dim=-1)
    for scores, count, choice in zip(raw, wanted, sample(rows, [row(one) for one in params]), strict=True):
        assert choice.token_id == 7
        assert choice.logprob == (None if count is None else pytest.approx(scores[7].item()))
        best = scores.topk(count or 0)
        assert [token for token, _ in choice.top_logprobs] == best.indices.tolist()
        assert [value for _, value in choice.top_logprobs] == pytest.approx(best.values.tolist())


@pytest.mark.parametrize("num_top", [0, 1, 5])
def test_score_says_how_probable_given_tokens_are(num_top: int):
    rows = logits(8, rows=3, vocab=50)
    raw = rows.log_softmax(dim=-1)
    for scores, token, choice in zip(raw, (4, 0, 49), score(rows, [4, 0, 49], num_top), strict=True):
        assert (choice.token_id, choice.logprob) == (token, pytest.approx(scores[token].item()))
        assert [token for token, _ in choice.top_logprobs] == scores.topk(num_top).indices.tolist()


def test_equally_probable_tokens_are_listed_by_id():
    assert [token for token, _ in score(torch.zeros(1, 3000), [5], 4)[0].top_logprobs] == [0, 1, 2, 3]


def test_the_logits_are_left_as_they_were():
    rows = logits(5, rows=2)
    before = rows.clone()
    params = SamplingParams(temperature=1.0, repetition_penalty=2.0, presence_penalty=1.0, logit_bias=((1, 3.0),))
    allowed = np.ones(VOCAB, dtype=np.bool_)
    sample(rows, [row(params, prompt_ids=(1, 2), output_ids=[3], banned_ids=(1,), allowed=allowed)] * 2)
    assert torch.equal(rows, before)


def maybe(default: Any, *values: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(default), st.sampled_from(values))


MIXED_VOCAB = 3000  # beyond the candidates that are cut first
ids = st.integers(0, MIXED_VOCAB - 1)
mixed_rows = st.builds(
    SamplingRow,
    st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1e-38, 0.7, 1.0, 5.0, 1e38]),
        top_k=maybe(0, 1, 40, 1500, 10**9),
        top_p=maybe(1.0, 1e-6, 0.5, 0.95, 0.99999),
        min_p=maybe(0.0, 1e-6, 0.1, 1.0),
        typical_p=maybe(1.0, 0.2, 0.95),
        repetition_penalty=maybe(1.0, 0.5, 1.3),
        frequency_penalty=maybe(0.0, -2.0, 0.5),
        presence_penalty=maybe(0.0, 1.5),
        logit_bias=maybe((), ((3, 5.0), (2999, -100.0))),
        logprobs=maybe(None, 0, 2, 20),
    ),
    prompt_ids=st.lists(ids, max_size=5),
    output_ids=st.lists(ids, max_size=5),
    noise=st.floats(0, 1, exclude_max=True),
    banned_ids=st.lists(ids, max_size=3),
    allowed=maybe(None, np.arange(MIXED_VOCAB) % 7 == 0, np.arange(MIXED_VOCAB) > 2500),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(mixed_rows, st.sampled_from([0.0, 0.5, 6.0]), st.booleans()), min_size=1, max_size=6))
def test_a_row_does_not_depend_on_its_neighbours(cases: list[tuple[SamplingRow, float, bool]]):
    spreads = torch.tensor([[spread] for _, spread, _ in cases])
    scores = spreads * logits(4, rows=len(cases), vocab=MIXED_VOCAB)
    is_coarse = torch.tensor([[coarse] for *_, coarse in cases])
    scores = torch.where(is_coarse, scores.round(), scores)  # many ties
    rows = [one for one, *_ in cases]
    alone = [sample(scores[index : index + 1], [one])[0] for index, one in enumerate(rows)]
    assert sample(scores, rows) == alone


@settings(deadline=None, max_examples=40)
@given(st.lists(mixed_rows, min_size=1, max_size=6), st.sampled_from([0.0, 0.5, 6.0]), st.sampled_from([1, 20, 1024]))
def test_neither_steps_before_nor_the_number_of_candidates_change_a_token(
    rows: list[SamplingRow], spread: float, num_candidates: int
):
    sampler, whole = Sampler(num_candidates), Sampler(MIXED_VOCAB)
    for seed in range(3):
        for some in (rows, rows[1:] or rows):
            scores = spread * logits(seed, rows=len(some), vocab=MIXED_VOCAB)
            assert sampler.sample(scores, some) == whole.sample(scores, some)


def test_tokens_of_a_seed_are_what_they_were():
    """Those of the first implementation, which drew row by row of parameters and asked the device as it went."""
    cases = [
        {},
        {"temperature": 0.8},
        {"temperature": 0.8, "top_k": 50},
        {"temperature": 1.1, "top_p": 0.95},
        {"temperature": 0.9, "min_p": 0.02},
        {"temperature": 1.0, "typical_p": 0.9},
        {"temperature": 1.3, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2},
        {"temperature": 1.0, "frequency_penalty": 0.7, "logit_bias": ((11, 4.0),), "logprobs": 2},
    ]
    rows = [
        row(SamplingParams(**case), noise(number, 17), prompt_ids=[1, 2, 3], output_ids=[5, 5, 8])
        for number, case in enumerate(cases * 4)
    ]
    chosen = sample(logits(12, rows=len(rows), vocab=MIXED_VOCAB), rows)
    assert [choice.token_id for choice in chosen] == [
        2268, 1468, 2284, 2254, 2894, 1007, 2554, 1952, 1102, 1024, 2306, 2711, 1068, 1027, 626, 2892,
        1924, 1804, 732, 1586, 250, 1536, 2980, 878, 953, 591, 54, 292, 1261, 1891, 762, 2993,
    ]  # fmt: skip


@settings(deadline=None, max_examples=100)
@given(mixed_rows, st.sampled_from([0.0, 0.5, 6.0]))
def test_a_token_that_comes_may_come(one: SamplingRow, spread: float):
    scores = spread * logits(4, vocab=MIXED_VOCAB)
    (choice,) = sample(scores, [one])
    assert choice.token_id not in one.banned_ids
    assert one.allowed is None or one.allowed[choice.token_id]
    assert choice == Choice(choice.token_id) or choice.logprob is not None and choice.logprob <= 0
