"""Operations between matrices beside their torch twins. Imports no triton, see ``triton_cases``."""

from typing import NamedTuple

import torch

from expertmesh.kernels.step_ops import TORCH_STEP_OPS, Choices, StepOps

torch.set_num_threads(1)


class Heads(NamedTuple):
    """Query heads, key-value heads, head width."""

    num_heads: int
    num_kv_heads: int
    width: int


def open_ops() -> StepOps:
    from expertmesh.kernels.triton.step_ops import TritonStepOps

    return TritonStepOps()


def draw(device: str, dtype: str, *shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(device, getattr(torch, dtype))


def normalise(device: str, dtype: str, num_rows: int, width: int, delta_dtype: str | None) -> list[torch.Tensor]:
    """Return the sum and the norm of the kernel, then of the twin."""
    results = []
    for ops in (open_ops(), TORCH_STEP_OPS):
        hidden = draw(device, dtype, num_rows, width)
        delta = draw(device, delta_dtype, num_rows, width, seed=1) if delta_dtype else None
        out = torch.empty_like(hidden)
        ops.add_and_normalise(hidden, delta, draw(device, dtype, width, seed=2), 1e-5, out)
        results += [hidden.cpu(), out.cpu()]
    return results


def normalise_heads(device: str, dtype: str, num_rows: int, heads: Heads, is_whole: bool) -> list[torch.Tensor]:
    """Return queries, keys and values after the kernel has normalised the keys, each or all as one, then the twin."""
    results = []
    for ops in (open_ops(), TORCH_STEP_OPS):
        joined = draw(device, dtype, num_rows, heads.num_heads + 2 * heads.num_kv_heads, heads.width)
        keys = joined[:, heads.num_heads : heads.num_heads + heads.num_kv_heads]
        keys = keys.flatten(1).unsqueeze(1) if is_whole else keys
        ops.normalise_heads(keys, draw(device, dtype, keys.shape[-1], seed=1), 1e-6)
        results.append(joined.cpu())
    return results


def rotate(device: str, dtype: str, num_rows: int, heads: Heads) -> list[torch.Tensor]:
    """Return queries, keys and values of the kernel, then of the twin."""
    results = []
    for ops in (open_ops(), TORCH_STEP_OPS):
        joined = draw(device, dtype, num_rows, heads.num_heads + 2 * heads.num_kv_heads, heads.width)
        angles = draw(device, dtype, num_rows, 1, heads.width, seed=1), draw(device, dtype, num_rows, 1, heads.width)
        keys, values = draw(device, dtype, 2, 40, heads.num_kv_heads, heads.width, seed=3)
        slots = torch.randperm(40, generator=torch.Generator().manual_seed(4))[:num_rows].to(device)
        query = ops.rotate_and_store(joined, angles, slots, keys, values)
        results += [query.cpu(), keys.cpu(), values.cpu()]
    return results


def choose_by_nan(device: str, num_experts: int, num_chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and weights of rows with one value that is not a number, and with none but such."""
    logits = draw(device, "float32", 3, num_experts)
    logits[0, 1], logits[1, num_experts - 1], logits[2] = torch.nan, torch.nan, torch.nan
    ids, weights = open_ops().choose_experts(logits, num_chosen)
    return ids.cpu(), weights.cpu()


def choose(
    device: str, dtype: str, num_rows: int, num_experts: int, num_chosen: int, is_padded: bool, is_renormalised: bool
) -> list[torch.Tensor]:
    """Return ids and weights of the kernel, then of the twin."""
    logits = draw(device, dtype, num_rows, num_experts)
    lengths = torch.arange(num_rows, dtype=torch.int32, device=device) % 3 if is_padded else None
    results = []
    for ops in (open_ops(), TORCH_STEP_OPS):
        ids = torch.zeros(num_rows, num_chosen, dtype=torch.int32, device=device)
        out = Choices(ids, torch.zeros(num_rows, num_chosen, device=device))
        ops.choose_experts(logits, num_chosen, lengths, out, is_renormalised)
        results += [out.ids.cpu(), out.weights.cpu()]
    return results
