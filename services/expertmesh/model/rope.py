"""Rotary position embedding in the half-rotation layout of HF checkpoints (Su et al., 2021)."""

import math

import torch

from expertmesh.architectures.rope import Rope, Yarn


class RotaryEmbedding:
    """Cosines and sines of every position, computed once in float32."""

    def __init__(self, head_dim: int, max_positions: int, rope: Rope, device: torch.device) -> None:
        positions = torch.arange(max_positions, dtype=torch.float32, device=device)  # [P]
        angles = torch.outer(positions, _frequencies(head_dim, rope, device)).repeat(1, 2)  # [P, d]
        magnitude = rope.yarn.attention_factor if rope.yarn else 1.0
        self._cos = angles.cos() * magnitude
        self._sin = angles.sin() * magnitude

    def at(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines [T, 1, d] of ``positions`` [T]."""
        return self._cos[positions].unsqueeze(1).to(dtype), self._sin[positions].unsqueeze(1).to(dtype)


def _frequencies(head_dim: int, rope: Rope, device: torch.device) -> torch.Tensor:
    """Return by how much each pair of features turns from one position to the next, [d/2]."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim  # [d/2]
    plain = 1.0 / rope.theta**exponents
    if rope.yarn is None:
        return plain / rope.stretch
    slowed = 1.0 / (rope.yarn.factor * rope.theta**exponents)
    kept = _kept_share(head_dim, rope.theta, rope.yarn).to(device)
    return slowed * (1 - kept) + plain * kept


def _kept_share(head_dim: int, theta: float, yarn: Yarn) -> torch.Tensor:
    """Return how far each pair keeps its pace, [d/2]: from 1 for fast ones to 0 for slow ones, straight in between."""
    first, last = (_pair_that_turns(times, head_dim, theta, yarn) for times in (yarn.beta_fast, yarn.beta_slow))
    if yarn.is_rounded:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    # A step where both bounds are one.
    width = last - first or 0.001
    return 1 - ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)


def _pair_that_turns(times: float, head_dim: int, theta: float, yarn: Yarn) -> float:
    """Return the pair, between whole ones, that turns so many times within the original positions."""
    return head_dim * math.log(yarn.original_positions / (times * 2 * math.pi)) / (2 * math.log(theta))
