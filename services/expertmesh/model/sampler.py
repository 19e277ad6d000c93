"""From logits to tokens. Knows rows of logits and their parameters, not requests.

Alphabet: S rows, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from expertmesh.model.sampling import Choice, SamplingParams

# Within these bounds no quotient overflows; beyond them a draw is greedy or uniform all the same.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30


@dataclass(frozen=True)
class SamplingRow:
    """Where a row of logits stands in its sequence.

    ``noise`` in [0, 1) decides the draw: same logits, parameters and noise, same token. ``banned_ids`` may not come
    now; ``allowed`` [V] bool, where given, are the only ids that may.
    """

    params: SamplingParams
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    noise: float = 0.0
    banned_ids: Sequence[int] = ()
    allowed: NDArray[np.bool_] | None = None


@torch.inference_mode()
def sample(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> list[Choice]:
    """Choose a token for each row of ``logits`` [S, V] float32.

    A row's token does not depend on its neighbours. Work that no row asks for is skipped: greedy rows cost one argmax,
    truncating rows a sort.
    """
    scores = _adjust(logits, rows)
    tokens = scores.argmax(dim=-1)  # [S]
    for draw, drawn in ((_draw, _is_random), (_draw_truncated, _is_truncated)):
        chosen = [index for index, row in enumerate(rows) if drawn(row.params)]
        if chosen:
            tokens[chosen] = draw(scores[chosen], [rows[index] for index in chosen])
    return _describe(logits, tokens.tolist(), [row.params.logprobs for row in rows])


def score(logits: torch.Tensor, token_ids: Sequence[int], num_top: int) -> list[Choice]:
    """Say how probable ``token_ids`` [S] are under ``logits`` [S, V] float32, and which ``num_top`` are the most."""
    return _describe(logits, token_ids, [num_top] * len(token_ids))


def _is_truncated(params: SamplingParams) -> bool:
    cuts = params.top_k > 0 or params.top_p < 1 or params.min_p > 0 or params.typical_p < 1
    return params.temperature > 0 and cuts


def _is_random(params: SamplingParams) -> bool:
    return params.temperature > 0 and not _is_truncated(params)


def _adjust(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Apply what a request adds to and forbids in its logits; returns ``logits`` itself where nobody asks for it."""
    scores = logits
    for index, row in enumerate(rows):
        for adjust in _adjustments(row):
            scores = logits.clone() if scores is logits else scores
            adjust(scores[index], row)
    return scores


def _adjustments(row: SamplingRow) -> list[Callable[[torch.Tensor, SamplingRow], None]]:
    params = row.params
    wanted = (
        (_penalise_repetition, params.repetition_penalty != 1),
        (_penalise_frequency, params.frequency_penalty != 0 or params.presence_penalty != 0),
        (_add_bias, bool(params.logit_bias)),
        (_ban, bool(row.banned_ids)),
        (_allow, row.allowed is not None),
    )
    return [adjust for adjust, is_wanted in wanted if is_wanted]


def _penalise_repetition(scores: torch.Tensor, row: SamplingRow) -> None:
    """Divide positive and multiply negative logits of tokens seen in prompt or output (Keskar et al., 2019)."""
    ids = _ids(scores, {*row.prompt_ids, *row.output_ids})
    values, penalty = scores[ids], row.params.repetition_penalty
    scores[ids] = torch.where(values > 0, values / penalty, values * penalty)


def _penalise_frequency(scores: torch.Tensor, row: SamplingRow) -> None:
    """Lower the logits of tokens of the output, for each time they came and once for having come (OpenAI's API)."""
    counts = torch.bincount(_ids(scores, row.output_ids), minlength=len(scores))  # [V]
    scores -= row.params.frequency_penalty * counts + row.params.presence_penalty * (counts > 0)


def _add_bias(scores: torch.Tensor, row: SamplingRow) -> None:
    ids, biases = zip(*row.params.logit_bias, strict=True)
    scores[_ids(scores, ids)] += torch.tensor(biases, device=scores.device)


def _ban(scores: torch.Tensor, row: SamplingRow) -> None:
    scores[_ids(scores, row.banned_ids)] = -torch.inf


def _allow(scores: torch.Tensor, row: SamplingRow) -> None:
    scores[~torch.from_numpy(row.allowed).to(scores.device)] = -torch.inf


def _ids(like: torch.Tensor, ids: Iterable[int]) -> torch.Tensor:
    return torch.tensor(list(ids), dtype=torch.int64, device=like.device)


def _column(values: Iterable[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(values), dtype=like.dtype, device=like.device).unsqueeze(1)  # [S, 1]


def _scale(scores: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    temperatures = [min(max(row.params.temperature, MIN_TEMPERATURE), MAX_TEMPERATURE) for row in rows]
    return scores / _column(temperatures, scores)


def _draw(scores: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw a token [S] for each row of ``scores`` [S, V]."""
    return _pick(torch.softmax(_scale(scores, rows), dim=-1), rows)


def _draw_truncated(scores: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw from what top_k, top_p, typical_p and min_p leave, one after the other."""
    ordered, ids = _scale(scores, rows).sort(dim=-1, descending=True, stable=True)  # [S, V]
    probabilities = torch.softmax(ordered, dim=-1)
    for cut in (_cut_top_k, _cut_top_p, _cut_typical_p, _cut_min_p):
        probabilities = cut(probabilities, [row.params for row in rows])
        probabilities /= probabilities.sum(dim=-1, keepdim=True)
    return ids.gather(1, _pick(probabilities, rows).unsqueeze(1)).squeeze(1)


def _cut_top_k(probabilities: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Keep the k most probable; ``probabilities`` [S, V] come in descending order."""
    vocab_size = probabilities.shape[1]
    top_k = _column((p.top_k or vocab_size for p in params), probabilities)
    rank = torch.arange(vocab_size, device=probabilities.device)
    return probabilities.masked_fill(rank >= top_k, 0)


def _cut_top_p(probabilities: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Keep the most probable that reach top_p (Holtzman et al., 2020): one stays while those before it have not."""
    top_p = _column((p.top_p for p in params), probabilities)
    before = probabilities.cumsum(dim=-1) - probabilities
    return probabilities.masked_fill((before >= top_p) & (top_p < 1), 0)


def _cut_typical_p(probabilities: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Keep those whose surprise is nearest to the entropy, up to typical_p (Meister et al., 2023)."""
    typical_p = _column((p.typical_p for p in params), probabilities)
    surprise = -probabilities.log()  # [S, V]
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    by_distance = (surprise - entropy).abs().sort(dim=-1, stable=True).indices
    nearest = probabilities.gather(1, by_distance)
    is_cut = (nearest.cumsum(dim=-1) - nearest >= typical_p) & (typical_p < 1)
    return probabilities.masked_fill(torch.empty_like(is_cut).scatter_(1, by_distance, is_cut), 0)


def _cut_min_p(probabilities: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Keep those at least min_p times as probable as the most probable one (Nguyen et al., 2024)."""
    min_p = _column((p.min_p for p in params), probabilities)
    return probabilities.masked_fill(probabilities < min_p * probabilities.amax(dim=-1, keepdim=True), 0)


def _pick(probabilities: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Return for each row the first index [S] at which the probabilities so far exceed its noise."""
    cumulative = probabilities.double().cumsum(dim=-1)  # [S, V]
    targets = _column((row.noise for row in rows), cumulative) * cumulative[:, -1:]
    picked = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    # Noise just below 1 may round up to the whole sum, which nothing exceeds.
    last = (cumulative >= cumulative[:, -1:]).int().argmax(dim=-1)
    return torch.minimum(picked, last)


def _describe(logits: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int | None]) -> list[Choice]:
    """Attach logarithms of probabilities under ``logits`` [S, V] to the tokens of rows that want them."""
    choices = [Choice(token_id) for token_id in token_ids]
    wanted = [index for index, count in enumerate(num_top) if count is not None]
    if not wanted:
        return choices
    logprobs = torch.log_softmax(logits[wanted], dim=-1)
    best = logprobs.topk(max(num_top[index] or 0 for index in wanted), dim=-1)
    own = logprobs.gather(1, _ids(logits, [token_ids[index] for index in wanted]).unsqueeze(1)).squeeze(1)
    for position, index in enumerate(wanted):
        top = zip(best.indices[position].tolist(), best.values[position].tolist(), strict=True)
        count = num_top[index] or 0
        choices[index] = Choice(token_ids[index], own[position].item(), tuple(top)[:count])
    return choices
