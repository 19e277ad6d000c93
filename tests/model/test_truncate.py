from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, TypicalLogitsWarper

from expertmesh.model import truncate
from expertmesh.model.sampling import SamplingParams
from expertmesh.model.truncate import truncated_softmax

VOCAB = 5000


def scores(seed: int, spread: float, rows: int = 1, vocab: int = VOCAB) -> torch.Tensor:
    values = spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))
    return values - values.amax(dim=-1, keepdim=True)


def params(**fields: Any) -> SamplingParams:
    return SamplingParams(temperature=1.0, **fields)


def kept(values: torch.Tensor, wanted: SamplingParams) -> torch.Tensor:
    return truncated_softmax(values, [wanted] * len(values)) > 0


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


@settings(deadline=None, max_examples=100)
@given(cuts, st.integers(0, 20), st.sampled_from([0.0, 0.5, 2.0, 5.0]))
def test_candidates_leave_what_sorting_everything_leaves(wanted: SamplingParams, seed: int, spread: float):
    values = scores(seed, spread, vocab=200)
    whole = truncated_softmax(values, [wanted])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncate, "NUM_CANDIDATES", 20)
        among_candidates = truncated_softmax(values, [wanted])
    torch.testing.assert_close(
        among_candidates / among_candidates.sum(), whole / whole.sum(), atol=0, rtol=1e-6, equal_nan=False
    )


def test_without_cuts_probabilities_are_those_of_softmax():
    values = scores(0, 2.0)
    assert torch.equal(truncated_softmax(values, [params()]), values.softmax(dim=-1))


def test_equal_scores_are_kept_by_id_beyond_the_candidates_too():
    for top_k in (3, 2000):
        assert torch.equal(kept(torch.zeros(1, VOCAB), params(top_k=top_k))[0], torch.arange(VOCAB) < top_k)
