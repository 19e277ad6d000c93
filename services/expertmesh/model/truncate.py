"""Which tokens may be drawn: top_k, top_p, typical_p and min_p. Knows scores and parameters, not requests.

Alphabet: S rows, V vocabulary, C candidates: the most probable tokens, in descending order.
"""

import math
from collections.abc import Sequence

import torch

from expertmesh.model.rows import nearest_to_zero, to_device, total
from expertmesh.model.sampling import SamplingParams

# What these parameters keep of a trained model's distribution is rarely more.
NUM_CANDIDATES = 1024


def is_truncated(params: SamplingParams) -> bool:
    """Whether anything is cut off."""
    return params.top_k > 0 or params.top_p < 1 or params.typical_p < 1 or params.min_p > 0


def may_do_with(params: SamplingParams, num_candidates: int) -> bool:
    """Whether so many candidates can prove to be enough; see ``Cuts.are_enough``."""
    if params.top_k > 0:
        return params.top_k <= num_candidates
    return params.top_p < 1 or (params.typical_p == 1 and params.min_p > 0)


class Cuts:
    """The cuts that some rows ask for, on a device, so that they can be made in step after step.

    They are made one after the other, each on shares of what the one before has left. Sorting a vocabulary is slow, so
    they are made among ``num_candidates``, the most probable tokens.
    """

    def __init__(self, params: Sequence[SamplingParams], num_candidates: int, device: torch.device) -> None:
        self._num_candidates = num_candidates
        values = [[float(getattr(row, field)) for row in params] for field in FIELDS]
        columns = to_device([*values, *_proofs(params, num_candidates)], torch.float64, device).unsqueeze(2)
        self._proofs = columns[len(FIELDS) :].unbind()  # each [S, 1]
        # Where nobody asks for a cut it is left out; where somebody does, those that do not keep what they have.
        self._asked = [
            (cut, column)
            for row_values, nothing, cut, column in zip(values, NOTHING, CUTS, columns[: len(FIELDS)], strict=True)
            if any(value != nothing for value in row_values)
        ]

    def apply(self, scores: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Set to 0 what is cut off of ``probabilities`` [S, V], which belong to ``scores`` [S, V] <= 0.

        Rows need not add up to 1 then. Returns the candidates [S, C] as they were, by falling probability.
        """
        ids = nearest_to_zero(scores, self._num_candidates)
        candidates = probabilities.gather(1, ids).double()
        kept = candidates
        for cut, column in self._asked:
            kept = cut(kept, column)
        probabilities.zero_().scatter_(1, ids, kept.to(probabilities.dtype))
        return candidates

    def are_enough(self, candidates: torch.Tensor) -> torch.Tensor:
        """Say for which rows [S] everything that is not among ``candidates`` [S, C] is cut off in any case."""
        is_known, enough, floor = self._proofs
        is_reached = total(candidates) >= enough
        return ((is_known > 0) | is_reached | (candidates[:, -1:] < floor * candidates[:, :1])).squeeze(1)


def _proofs(params: Sequence[SamplingParams], num_candidates: int) -> list[list[float]]:
    """What proves that candidates are enough: that it is known, the mass they reach, a ratio the last one is below.

    top_k: there are at least k candidates. top_p: they reach it, so none stays after them. min_p: the last candidate
    is too improbable, and so is all that comes after it, unless typical_p has cut off the most probable token before.
    """
    is_known = [float(0 < row.top_k <= num_candidates) for row in params]
    enough = [row.top_p if row.top_k == 0 and row.top_p < 1 else math.inf for row in params]
    floor = [row.min_p if row.top_k == 0 and row.typical_p == 1 else 0.0 for row in params]
    return [is_known, enough, floor]


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


# In the order in which cuts are made: what asks for one, what asks for none.
FIELDS = ("top_k", "top_p", "typical_p", "min_p")
NOTHING = (0, 1, 1, 0)
CUTS = (_cut_top_k, _cut_top_p, _cut_typical_p, _cut_min_p)
