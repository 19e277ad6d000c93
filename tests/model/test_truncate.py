from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper

from expertmesh.model.sampling import SamplingParams
from expertmesh.model.truncate import NUM_CANDIDATES, Cuts, is_truncated, may_do_with

VOCAB = 5000


def scores(seed: int, spread: float, rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    values = spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))
    return values - values.amax(dim=-1, keepdim=True)


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(temperature=1.0, **fields)


def cut(values: torch.Tensor, wanted: SamplingParams, num_candidates: int = VOCAB) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities that are left, and for which rows the candidates were enough."""
    probabilities = values.softmax(dim=-1)
    cuts = Cuts([wanted] * len(values), min(num_candidates, values.shape[1]), values.device)
    return probabilities, cuts.are_enough(cuts.apply(values, probabilities))


def kept(values: torch.Tensor, wanted: SamplingParams) -> torch.Tensor:
    return cut(values, wanted)[0] > 0


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(
    ("field", "value", "warper"),
    [
        ("top_k", 1, TopKLogitsWarper),
        ("top_k", 50, TopKLogitsWarper),
        ("top_k", 2000, TopKLogitsWarper),
        ("top_k", 9000, TopKLogitsWarper),
        ("top_p", 0.3, TopPLogitsWarper),
        ("top_p", 0.95, TopPLogitsWarper),
        ("min_p", 0.05, MinPLogitsWarper),
        ("min_p", 0.9, MinPLogitsWarper),
        ("typical_p", 0.3, TypicalLogitsWarper),
        ("typical_p", 0.95, TypicalLogitsWarper),
    ],
)
def test_tokens_kept_are_those_of_transformers(field: str, value: float, warper: Any, spread: float):
    values = scores(1, spread, rows=3)
    expected = warper(value)(None, values.double()).softmax(dim=-1) > 0
    # The sum in another precision may decide otherwise about the one token at the border.
    assert (kept(values, params(**{field: value})) != expected).sum(dim=-1).max() <= (0 if field == "top_k" else 1)


cuts = st.builds(
    params,
    top_k=st.sampled_from([0, 0, 1, 7, 30, 200]),
    top_p=st.sampled_from([1.0, 0.2, 0.9, 0.999999]),
    min_p=st.sampled_from([0.0, 1e-4, 0.3]),
    typical_p=st.sampled_from([1.0, 0.3, 0.95]),
)


@settings(deadline=None, max_examples=200)
@given(cuts, st.integers(0, 20), st.sampled_from([0.0, 0.5, 2.0, 5.0]))
def test_candidates_that_are_enough_leave_what_sorting_everything_leaves(
    wanted: SamplingParams, seed: int, spread: float
):
    values = scores(seed, spread, vocab=200)
    among_candidates, is_exact = cut(values, wanted, num_candidates=20)
    if is_exact:
        assert may_do_with(wanted, 20)
        whole, _ = cut(values, wanted)
        torch.testing.assert_close(
            among_candidates / among_candidates.sum(), whole / whole.sum(), atol=0, rtol=1e-6, equal_nan=False
        )


def test_candidates_are_enough_for_a_peaked_distribution_and_never_for_typical_p_alone():
    wanted = [params(top_k=50), params(top_p=0.95), params(min_p=0.05), params(typical_p=0.9), params(top_k=2000)]
    assert [bool(cut(scores(0, 4.0), one, NUM_CANDIDATES)[1]) for one in wanted] == [True, True, True, False, False]
    assert [bool(cut(scores(0, 0.3), one, NUM_CANDIDATES)[1]) for one in wanted] == [True, False, False, False, False]
    assert [may_do_with(one, NUM_CANDIDATES) for one in wanted] == [True, True, True, False, False]


def test_nothing_is_cut_off_unless_somebody_asks():
    assert not is_truncated(params())
    assert all(
        is_truncated(one) for one in (params(top_k=1), params(top_p=0.9), params(min_p=0.1), params(typical_p=0.9))
    )
    values = scores(0, 2.0)
    torch.testing.assert_close(cut(values, params())[0], values.softmax(dim=-1), atol=0, rtol=0)


def test_equal_scores_are_kept_by_id_beyond_the_candidates_too():
    for top_k in (3, 2000):
        assert torch.equal(kept(torch.zeros(1, VOCAB), params(top_k=top_k))[0], torch.arange(VOCAB) < top_k)
