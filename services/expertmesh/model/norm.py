"""Root mean square normalisation (Zhang and Sennrich, 2019)."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RMSNorm:
    """x / rms(x) * ``weight`` [D], computed in float32 with ``eps`` under the root; ``StepOps`` does it."""

    weight: torch.Tensor
    eps: float
