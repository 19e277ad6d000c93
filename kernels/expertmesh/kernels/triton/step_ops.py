"""The operations between matrices as one launch each. Knows shapes; ``step_kernels`` knows what is computed.

Alphabet: T rows, D hidden width, H query heads, G key-value heads, d head width, E experts, A experts chosen per row.
"""

import torch
import triton

from expertmesh.kernels.step_ops import Choices
from expertmesh.kernels.triton import step_kernels
from expertmesh.kernels.triton.launching import on_device


class TritonStepOps:
    """See ``StepOps``."""

    def add_and_normalise(
        self,
        hidden: torch.Tensor,
        delta: torch.Tensor | None,
        weight: torch.Tensor,
        eps: float,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See ``StepOps``; ``hidden`` and ``delta`` have no gaps."""
        out = torch.empty_like(hidden) if out is None else out
        num_rows, width = hidden.shape
        if num_rows:
            with on_device(hidden.device):
                step_kernels.add_and_normalise[(num_rows,)](
                    hidden, delta, weight, out, **norm_constants(width, eps), num_warps=num_warps(width)
                )
        return out

    def normalise_heads(self, heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        """See ``StepOps``; heads of a row lie side by side."""
        num_rows, num_heads, width = heads.shape
        if num_rows:
            with on_device(heads.device):
                step_kernels.normalise_heads[(num_rows, num_heads)](
                    heads, weight, heads.stride(0), **norm_constants(width, eps), num_warps=num_warps(width)
                )

    def rotate_and_store(
        self,
        joined: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """See ``StepOps``."""
        num_rows, num_all, width = joined.shape
        num_kv_heads = keys.shape[1]
        num_heads = num_all - 2 * num_kv_heads
        query = joined.new_empty(num_rows, num_heads, width)
        if num_rows:
            with on_device(joined.device):
                step_kernels.rotate_and_store[(num_rows, num_all)](
                    joined, *angles, slots, keys, values, query,
                    **rotation_constants(num_heads, num_kv_heads, width), num_warps=1,
                )  # fmt: skip
        return query

    def choose_experts(
        self,
        logits: torch.Tensor,
        num_chosen: int,
        lengths: torch.Tensor | None = None,
        out: Choices | None = None,
        is_renormalised: bool = True,
    ) -> Choices:
        """See ``StepOps``."""
        num_rows, num_experts = logits.shape
        if out is None:
            ids = torch.empty(num_rows, num_chosen, dtype=torch.int32, device=logits.device)
            out = Choices(ids, torch.empty(num_rows, num_chosen, device=logits.device))
        if num_rows:
            with on_device(logits.device):
                step_kernels.choose_experts[(num_rows,)](
                    logits, lengths, *out, **choice_constants(num_experts, num_chosen, is_renormalised), num_warps=1
                )
        return out


def norm_constants(width: int, eps: float) -> dict[str, object]:
    """Name the compile-time arguments of ``add_and_normalise`` and ``normalise_heads``."""
    return {"EPS": eps, "WIDTH": width, "BLOCK": triton.next_power_of_2(width)}


def rotation_constants(num_heads: int, num_kv_heads: int, width: int) -> dict[str, object]:
    """Name the compile-time arguments of ``rotate_and_store``."""
    block = triton.next_power_of_2(width // 2)
    return {"NUM_HEADS": num_heads, "NUM_KV_HEADS": num_kv_heads, "WIDTH": width, "BLOCK": block}


def choice_constants(num_experts: int, num_chosen: int, is_renormalised: bool) -> dict[str, object]:
    """Name the compile-time arguments of ``choose_experts``."""
    block = triton.next_power_of_2(num_experts)
    return {"NUM_EXPERTS": num_experts, "NUM_CHOSEN": num_chosen, "IS_RENORMALISED": is_renormalised, "BLOCK": block}


def num_warps(width: int) -> int:
    """How many warps share a row of ``width`` values: some 8 of them to a thread."""
    block: int = triton.next_power_of_2(width)
    return min(max(block // 256, 1), 32)
