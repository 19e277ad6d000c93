"""Which tokens may be drawn: top_k, top_p, typical_p and min_p. Knows scores and parameters, not requests.

Alphabet: S rows, V vocabulary, C candidates: the most probable tokens, in descending order.
"""

from collections.abc import Sequence

import torch

from expertmesh.model.rows import column, nearest_to_zero, total
from expertmesh.model.sampling import SamplingParams

# What these parameters keep of a trained model's distribution is rarely more.
NUM_CANDIDATES = 1024

Params = Sequence[SamplingParams]


def truncated_softmax(scores: torch.Tensor, params: Params) -> torch.Tensor:
    """Return probabilities [S, V] of ``scores`` [S, V] <= 0, with 0 for what a row's parameters cut off.

    Cuts are made one after the other, each on shares of what the one before has left. Rows with a cut need not add up
    to 1. Sorting a vocabulary is slow, so a row is first cut among a few candidates, and as a whole only where these
    do not prove to be enough.
    """
    probabilities = torch.softmax(scores, dim=-1)
    rows = torch.tensor([index for index, row in enumerate(params) if _is_truncated(row)], device=scores.device).long()
    for num_candidates in (min(NUM_CANDIDATES, scores.shape[1]), scores.shape[1]):
        if len(rows) == 0:
            break
        wanted = [params[index] for index in rows.tolist()]
        ids = nearest_to_zero(scores[rows], num_candidates)
        candidates = probabilities[rows.unsqueeze(1), ids].double()
        is_exact = _is_exact(candidates, wanted, scores.shape[1])
        exact = rows[is_exact]
        probabilities.index_fill_(0, exact, 0)
        probabilities[exact.unsqueeze(1), ids[is_exact]] = _cut(candidates, wanted)[is_exact].to(probabilities.dtype)
        rows = rows[~is_exact]
    return probabilities


def _is_truncated(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.typical_p < 1 or params.min_p > 0


def _cut(candidates: torch.Tensor, params: Params) -> torch.Tensor:
    """Make the cuts that any row asks for; those that do not ask keep what they have."""
    for field, nothing, cut in (
        ("top_k", 0, _cut_top_k),
        ("top_p", 1, _cut_top_p),
        ("typical_p", 1, _cut_typical_p),
        ("min_p", 0, _cut_min_p),
    ):
        values = [getattr(row, field) for row in params]
        if any(value != nothing for value in values):
            candidates = cut(candidates, column(values, candidates))
    return candidates


def _is_exact(candidates: torch.Tensor, params: Params, vocab_size: int) -> torch.Tensor:
    """Say for which rows [S] everything that is not among ``candidates`` [S, C] is cut off in any case.

    top_k: there are at least k candidates. top_p: they reach it, so none stays after them. min_p: the last candidate is
    too improbable, and so is all that comes after it, unless typical_p has cut off the most probable token before.
    """
    num_candidates = candidates.shape[1]
    top_k, top_p, typical_p, min_p = (
        column((getattr(row, field) for row in params), candidates)
        for field in ("top_k", "top_p", "typical_p", "min_p")
    )
    by_top_k = (top_k > 0) & (top_k <= num_candidates)
    by_top_p = (top_p < 1) & (total(candidates) >= top_p)
    by_min_p = (typical_p == 1) & (candidates[:, -1:] < min_p * candidates[:, :1])
    is_exact = by_top_k | ((top_k == 0) & (by_top_p | by_min_p))
    return is_exact.squeeze(1) | (num_candidates == vocab_size)


def _cut_top_k(candidates: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Keep the k most probable, and make them add up to 1."""
    rank = torch.arange(candidates.shape[1], device=candidates.device)
    kept = candidates.masked_fill(rank >= top_k, 0)
    return torch.where(top_k > 0, kept / total(kept), candidates)


def _cut_top_p(candidates: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Keep the most probable that reach top_p (Holtzman et al., 2020): one stays while those before it have not."""
    before = candidates.cumsum(dim=-1) - candidates
    return candidates.masked_fill((before >= top_p) & (top_p < 1), 0)


def _cut_typical_p(candidates: torch.Tensor, typical_p: torch.Tensor) -> torch.Tensor:
    """Keep those whose surprise is nearest to the entropy, up to typical_p (Meister et al., 2023)."""
    shares = candidates / total(candidates)
    differences = -shares.log() - total(torch.special.entr(shares))
    ids = nearest_to_zero(differences.float(), candidates.shape[1])
    nearest = shares.gather(1, ids)
    is_cut = (nearest.cumsum(dim=-1) - nearest >= typical_p) & (typical_p < 1)
    return candidates.masked_fill(torch.zeros_like(is_cut).scatter_(1, ids, is_cut), 0)


def _cut_min_p(candidates: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Keep those at least min_p times as probable as the most probable one left (Nguyen et al., 2024)."""
    return candidates.masked_fill(candidates < min_p * candidates.amax(dim=-1, keepdim=True), 0)
