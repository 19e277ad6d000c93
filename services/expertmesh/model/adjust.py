"""What requests add to and forbid in their logits, before a token is chosen. Knows one row at a time.

Alphabet: S rows, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from expertmesh.model.rows import to_device
from expertmesh.model.sampling import SamplingParams


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


def adjust(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Apply what a request adds to and forbids in its logits; returns ``logits`` itself where nobody asks for it."""
    scores = logits
    for index, row in enumerate(rows):
        for make in _adjustments(row):
            scores = logits.clone() if scores is logits else scores
            make(scores[index], row)
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
    return [make for make, is_wanted in wanted if is_wanted]


def _penalise_repetition(scores: torch.Tensor, row: SamplingRow) -> None:
    """Divide positive and multiply negative logits of tokens seen in prompt or output (Keskar et al., 2019)."""
    ids = _ids(scores, (*row.prompt_ids, *row.output_ids))
    values, penalty = scores[ids].double(), row.params.repetition_penalty
    bounds = torch.finfo(scores.dtype)
    penalised = torch.where(values > 0, values / penalty, values * penalty).clamp(bounds.min, bounds.max)
    scores[ids] = penalised.to(scores.dtype)


def _penalise_frequency(scores: torch.Tensor, row: SamplingRow) -> None:
    """Lower the logits of tokens of the output, for each time they came and once for having come (OpenAI's API)."""
    # numpy counts on the host: how many there are is not to be asked of a device.
    ids, counts = np.unique(np.array(row.output_ids, dtype=np.int64), return_counts=True)
    penalties = row.params.frequency_penalty * torch.from_numpy(counts) + row.params.presence_penalty
    scores[_ids(scores, ids)] -= penalties.to(scores.device, non_blocking=True)


def _add_bias(scores: torch.Tensor, row: SamplingRow) -> None:
    ids, biases = zip(*row.params.logit_bias, strict=True)
    scores[_ids(scores, ids)] += to_device(biases, torch.float32, scores.device)


def _ban(scores: torch.Tensor, row: SamplingRow) -> None:
    scores[_ids(scores, row.banned_ids)] = -torch.inf


def _allow(scores: torch.Tensor, row: SamplingRow) -> None:
    assert row.allowed is not None
    scores.masked_fill_(torch.from_numpy(~row.allowed).to(scores.device, non_blocking=True), -torch.inf)


def _ids(like: torch.Tensor, ids: Iterable[int]) -> torch.Tensor:
    return to_device(list(ids), torch.int64, like.device)
