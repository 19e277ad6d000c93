"""From logits to tokens. Knows rows of logits and their parameters, not requests.

Alphabet: S rows, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from expertmesh.model.rows import column, nearest_to_zero
from expertmesh.model.sampling import Choice, SamplingParams
from expertmesh.model.truncate import truncated_softmax

# Beyond these bounds, which float32 can divide by, a draw is greedy or uniform all the same.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-30, 1e30


@dataclass(frozen=True)
class SamplingRow:
    """Where a row of logits stands in its sequence.

    ``noise`` in [0, 1) decides the draw: same logits, parameters and noise, same token. ``banned_ids`` may not come
    now; ``allowed`` [V] bool, where given, are the only ids that may. One id at least must be left: else any comes.
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

    A row's token does not depend on its neighbours, and among equals the lowest id comes first. Penalties, bias and
    bans change the logits; then come temperature and truncation; then the draw. Work that no row asks for is skipped:
    greedy rows cost one argmax.
    """
    scores = _adjust(logits, rows)
    tokens = scores.argmax(dim=-1)  # [S]
    drawn = [index for index, row in enumerate(rows) if row.params.temperature > 0]
    if drawn:
        tokens[drawn] = _draw(scores[drawn], [rows[index] for index in drawn])
    return _describe(logits, tokens.tolist(), [row.params.logprobs for row in rows])


def score(logits: torch.Tensor, token_ids: Sequence[int], num_top: int) -> list[Choice]:
    """Say how probable ``token_ids`` [S] are under ``logits`` [S, V] float32, and which ``num_top`` are the most."""
    return _describe(logits, token_ids, [num_top] * len(token_ids))


def _draw(scores: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw a token [S] for each row of ``scores`` [S, V]."""
    params = [row.params for row in rows]
    probabilities = truncated_softmax(_scale(scores, params), params)
    return _pick(probabilities, [row.noise for row in rows])


def _scale(scores: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Divide by the temperature, with the best score moved to 0 first, so that no quotient overflows upwards."""
    temperatures = (min(max(row.temperature, MIN_TEMPERATURE), MAX_TEMPERATURE) for row in params)
    return (scores - scores.amax(dim=-1, keepdim=True)) / column(temperatures, scores)


def _pick(probabilities: torch.Tensor, noises: Sequence[float]) -> torch.Tensor:
    """Return for each row the first id [S] at which the probabilities so far exceed their sum times its noise."""
    cumulative = probabilities.double().cumsum(dim=-1)  # [S, V]
    whole = cumulative[:, -1:]
    # Noise just below 1 may round up to the whole sum, which nothing exceeds.
    targets = torch.minimum(column(noises, cumulative) * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    picked = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    return picked.clamp(max=probabilities.shape[1] - 1)


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
    ids = _ids(scores, (*row.prompt_ids, *row.output_ids))
    values, penalty = scores[ids].double(), row.params.repetition_penalty
    bounds = torch.finfo(scores.dtype)
    penalised = torch.where(values > 0, values / penalty, values * penalty).clamp(bounds.min, bounds.max)
    scores[ids] = penalised.to(scores.dtype)


def _penalise_frequency(scores: torch.Tensor, row: SamplingRow) -> None:
    """Lower the logits of tokens of the output, for each time they came and once for having come (OpenAI's API)."""
    ids, counts = torch.unique(_ids(scores, row.output_ids), return_counts=True)
    scores[ids] -= row.params.frequency_penalty * counts + row.params.presence_penalty


def _add_bias(scores: torch.Tensor, row: SamplingRow) -> None:
    ids, biases = zip(*row.params.logit_bias, strict=True)
    scores[_ids(scores, ids)] += torch.tensor(biases, device=scores.device)


def _ban(scores: torch.Tensor, row: SamplingRow) -> None:
    scores[_ids(scores, row.banned_ids)] = -torch.inf


def _allow(scores: torch.Tensor, row: SamplingRow) -> None:
    assert row.allowed is not None
    scores.masked_fill_(torch.from_numpy(~row.allowed).to(scores.device), -torch.inf)


def _ids(like: torch.Tensor, ids: Iterable[int]) -> torch.Tensor:
    return torch.tensor(list(ids), dtype=torch.int64, device=like.device)


def _describe(logits: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int | None]) -> list[Choice]:
    """Attach logarithms of probabilities under ``logits`` [S, V] to the tokens of rows that want them."""
    choices = [Choice(token_id) for token_id in token_ids]
    wanted = [index for index, count in enumerate(num_top) if count is not None]
    if not wanted:
        return choices
    logprobs = torch.log_softmax(logits[wanted], dim=-1)
    top_ids = nearest_to_zero(logprobs, max(num_top[index] or 0 for index in wanted))
    ids = torch.cat((_ids(logits, [token_ids[index] for index in wanted]).unsqueeze(1), top_ids), dim=1)
    values = logprobs.gather(1, ids)
    for index, (_, *best), (own, *top) in zip(wanted, ids.tolist(), values.tolist(), strict=True):
        choices[index] = Choice(token_ids[index], own, tuple(zip(best, top, strict=True))[: num_top[index] or 0])
    return choices
