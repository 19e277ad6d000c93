"""SwiGLU experts made of a backend's matrices. Knows the formula, not how a matrix is stored.

Alphabet: R rows sorted by expert, D hidden width, F FFN width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import silu

from expertmesh.kernels.backend import Linear
from expertmesh.kernels.weights import ExpertWeights, Weight, fold_down_order, stack_outputs


class Expert(Protocol):
    """One expert in the layout of its backend."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its matrices."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the expert on ``x`` [R, D]; returns [R, D] of any float type."""
        ...


Activate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def silu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """Return silu(gate) * up."""
    return silu(gate) * up


@dataclass(frozen=True)
class SwiGLU:
    """y = w_down(silu(gate) * up); gate and up come from one matrix where their storage allows."""

    gate_up: tuple[Linear, ...]
    down: Linear
    activate: Activate = silu_gate

    @classmethod
    def build(
        cls, weights: ExpertWeights, linear: Callable[[Weight], Linear], activate: Activate = silu_gate
    ) -> "SwiGLU":
        """Hand the matrices of an expert to a backend's ``linear``; ``activate`` joins gate and up."""
        weights = fold_down_order(weights)
        parts = (weights.w_gate, weights.w_up)
        joined = stack_outputs(parts)
        gate_up = tuple(linear(weight) for weight in ((joined,) if joined else parts))
        return cls(gate_up, linear(weights.w_down), activate)

    @property
    def num_bytes(self) -> int:
        """Bytes of the matrices."""
        return sum(linear.num_bytes for linear in (*self.gate_up, self.down))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Run the expert on ``x`` [R, D]."""
        if len(self.gate_up) == 1:
            gate, up = self.gate_up[0](x).chunk(2, dim=-1)  # [R, F]
        else:
            gate, up = (linear(x) for linear in self.gate_up)
        return self.down(self.activate(gate, up))


class GroupedSwiGLU:
    """The hosted experts of a layer, one after the other: the loop is over experts, never over rows."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        self._experts = experts
        self.num_bytes = sum(expert.num_bytes for expert in experts)

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``; ValueError when ``num_rows`` do not add up to R."""
        if sum(num_rows) != len(x):
            raise ValueError(f"num_rows {list(num_rows)} add up to {sum(num_rows)}; there are {len(x)} rows")
        return run_one_by_one(self._experts, x, num_rows, row_weights)


def run_one_by_one(
    experts: Iterable[Callable[[torch.Tensor], torch.Tensor]],
    x: torch.Tensor,
    num_rows: Sequence[int],
    row_weights: torch.Tensor,
) -> torch.Tensor:
    """Run each of ``experts`` that has rows on them, and scale each row; arguments and result as ``GroupedFFN``."""
    outputs = torch.empty(x.shape, dtype=torch.float32, device=x.device)  # [R, D]
    start = 0
    for expert, count in zip(experts, num_rows, strict=True):
        if count:
            rows = slice(start, start + count)
            torch.mul(expert(x[rows]), row_weights[rows, None], out=outputs[rows])
        start += count
    return outputs
