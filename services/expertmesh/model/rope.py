"""Rotary position embedding in the half-rotation layout of HF checkpoints (Su et al., 2021)."""

import torch


class RotaryEmbedding:
    """Cosines and sines of every position, computed once in float32."""

    def __init__(self, head_dim: int, max_positions: int, theta: float, device: torch.device) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim  # [d/2]
        positions = torch.arange(max_positions, dtype=torch.float32, device=device)  # [P]
        angles = torch.outer(positions, 1.0 / theta**exponents).repeat(1, 2)  # [P, d]
        self._cos = angles.cos()
        self._sin = angles.sin()

    def at(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines [T, 1, d] of ``positions`` [T]."""
        return self._cos[positions].unsqueeze(1).to(dtype), self._sin[positions].unsqueeze(1).to(dtype)
