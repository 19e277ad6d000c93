"""Whether what a replica answers can be an answer at all. Knows shapes and numbers, not who is asked instead.

Alphabet: U rows of a call, D hidden width.
"""

import numpy as np
import torch

from expertmesh.errors import ExpertmeshError
from expertmesh.kernels.finite import is_finite
from expertmesh.wire.calls import ExpertCall, ExpertResult
from expertmesh.wire.failures import CallFailure, FailureCode


class ReplicaFaultError(ExpertmeshError):
    """A replica answered with what no expert can make of the call."""


def check_answer(call: ExpertCall, result: ExpertResult) -> None:
    """Let the partial rows [U, D] of an answer pass, or say whose fault they are.

    ReplicaFaultError, with the numbers, for another shape or dtype, and for values that are not finite where those sent
    were; CallFailure INVALID_REQUEST where they were not.
    """
    partial, shape = result.partial, call.hidden.shape
    if partial.shape != shape or partial.dtype != torch.float32:
        raise ReplicaFaultError(
            f"it answered with {partial.dtype} {list(partial.shape)}; torch.float32 {list(shape)} would be right"
        )
    if not is_finite(partial):
        _accuse(call, partial)


def _accuse(call: ExpertCall, partial: torch.Tensor) -> None:
    is_bad = ~partial.isfinite().all(dim=1).numpy()  # [U]
    rows = np.flatnonzero(is_bad).tolist()
    if not call.finite_rows()[is_bad].all():
        raise CallFailure(FailureCode.INVALID_REQUEST, f"hidden or topk_weights of rows {rows} are not finite")
    raise ReplicaFaultError(f"it answered with values that are not finite in rows {rows}")
