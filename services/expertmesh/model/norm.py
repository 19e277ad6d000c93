"""Root mean square normalisation (Zhang and Sennrich, 2019)."""

import torch


class RMSNorm:
    """x / rms(x) * weight, computed in float32."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``x`` [T, D] over D; the dtype stays."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self._eps)
        return self._weight * wide.to(x.dtype)
