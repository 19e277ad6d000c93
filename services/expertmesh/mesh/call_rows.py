"""Which rows of a step go into a call, and how the answers of its calls add up. Knows rows, not replicas.

Alphabet: T rows of the step, A experts chosen per row, U rows of one call, D hidden width.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.kernels.moe import add_rows
from expertmesh.wire.calls import ExpertCall


@dataclass(frozen=True)
class Partial:
    """What some experts add to the ``rows`` [U] of a step, None = all, in order: ``values`` [U, D] float32."""

    experts: tuple[int, ...]
    rows: torch.Tensor | None
    values: torch.Tensor


def select_rows(step: ExpertCall, experts: tuple[int, ...]) -> tuple[torch.Tensor | None, ExpertCall]:
    """Pick the rows [U] that chose any of ``experts``, None = all, with every other choice masked out."""
    chosen = _which_chose(step.topk_ids, experts)  # [T, A]
    if chosen.all():
        return None, step
    ids = np.where(chosen, step.topk_ids, np.int32(-1))
    is_wanted = chosen.any(axis=1)  # [T]
    if is_wanted.all():
        return None, _part_of(step, step.hidden, ids, step.topk_weights)
    rows = np.flatnonzero(is_wanted)  # [U]
    index = torch.from_numpy(rows)
    return index, _part_of(step, step.hidden.index_select(0, index), ids[rows], step.topk_weights[rows])


def combine(partials: list[Partial], hidden: torch.Tensor) -> torch.Tensor:
    """Add the partial rows in the order of their experts, whatever the order of arrival: [T, D] float32."""
    ordered = sorted(partials, key=lambda partial: partial.experts)
    if len(ordered) == 1 and ordered[0].rows is None:
        return ordered[0].values.to(hidden.device)
    total = torch.zeros(hidden.shape, dtype=torch.float32)  # [T, D]
    for partial in ordered:
        if partial.rows is None:
            total.add_(partial.values)
        else:
            add_rows(total, partial.rows, partial.values)
    return total.to(hidden.device)


def _which_chose(ids: npt.NDArray[np.int32], experts: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    chosen: npt.NDArray[np.bool_] = ids == experts[0]
    for expert in experts[1:]:
        chosen |= ids == expert
    return chosen


def _part_of(
    step: ExpertCall, hidden: torch.Tensor, ids: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]
) -> ExpertCall:
    return ExpertCall(step.layer, hidden, ids, weights, step.timeout_seconds, step.traceparent)
