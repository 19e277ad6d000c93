"""Which rows of a step go into a call, and how the answers of its calls add up. Knows rows, not replicas.

Alphabet: T rows of the step, A experts chosen per row, U rows of one call, D hidden width.
"""

from dataclasses import dataclass

import numpy as np
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
    chosen = (step.topk_ids[..., None] == experts).any(axis=-1)  # [T, A]; isin takes six times as long
    if chosen.all():
        return None, step
    rows = np.flatnonzero(chosen.any(axis=1))  # [U]
    index = torch.from_numpy(rows)
    return index, ExpertCall(
        step.layer,
        step.hidden.index_select(0, index),
        np.where(chosen, step.topk_ids, np.int32(-1))[rows],
        step.topk_weights[rows],
        step.timeout_seconds,
        step.traceparent,
    )


def combine(partials: list[Partial], hidden: torch.Tensor) -> torch.Tensor:
    """Add the partial rows in the order of their experts, whatever the order of arrival: [T, D] float32."""
    ordered = sorted(partials, key=lambda partial: partial.experts)
    if len(ordered) == 1 and ordered[0].rows is None:
        return ordered[0].values.to(hidden.device)
    total = torch.zeros(hidden.shape, dtype=torch.float32)  # [T, D]
    for partial in ordered:
        rows = torch.arange(len(total)) if partial.rows is None else partial.rows
        add_rows(total, rows, partial.values)
    return total.to(hidden.device)
