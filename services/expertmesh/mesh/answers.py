"""Whether what a replica answers can be an answer at all. Knows shapes and numbers, not who is asked instead.

Alphabet: U rows of a call, D hidden width.
"""

import torch

from expertmesh.errors import ExpertmeshError
from expertmesh.kernels.finite import is_finite
from expertmesh.wire.calls import ExpertCall, ExpertResult, find_nonfinite


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
        found = find_nonfinite(call, partial)
        raise found.fault or ReplicaFaultError(f"it answered with values that are not finite in rows {found.rows}")
