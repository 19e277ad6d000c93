"""From the experts that rows chose to who computes what, and from products back to rows. Knows no matrix.

Alphabet: T rows, A experts chosen for each, C = T * A choices; E experts, N columns, S sums that make a product.
"""

from dataclasses import dataclass

import torch
import triton

from expertmesh.kernels.triton import kernels
from expertmesh.kernels.triton.launching import on_device
from expertmesh.kernels.triton.tuning import count_tiles

SCHEDULE_CHOICES = 1024  # choices that a program of the schedule kernel takes at a time
COMBINE_COLUMNS = 512  # columns of a program of the combine kernel
# Multiplied and added in two roundings, as where an expert server multiplies and the gateway adds.
COMBINE_OPTIONS = {"enable_fp_fusion": False}


@dataclass(frozen=True)
class Schedule:
    """Who computes what: choices sorted by expert, those of an expert by row.

    ``rows`` [C] int32 is the row at each position of that order, ``positions`` [T, A] int32 the position of each choice
    or -1, ``tiles`` [tiles, 3] int32 expert (or -1: no tile), first position, position after the expert's last.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    tiles: torch.Tensor


def read_spans(order: Schedule) -> list[tuple[int, int, int]]:
    """Read, waiting for the device, the experts that were chosen: expert, first position, position after its last."""
    spans: dict[int, tuple[int, int]] = {}
    for expert, first, end in order.tiles.tolist():
        if expert >= 0:
            spans.setdefault(expert, (first, end))  # an expert's first tile begins where its positions do
    return [(expert, *span) for expert, span in spans.items()]


def schedule(topk_slots: torch.Tensor, num_experts: int, block_rows: int) -> Schedule:
    """Sort ``topk_slots`` [T, A], integers of which those from 0 to E - 1 are experts, and cut tiles of rows."""
    slots = topk_slots.contiguous()
    made = _empty_schedule(slots, num_experts, block_rows)
    with on_device(slots.device):
        kernels.schedule[(num_experts + 1,)](
            slots, made.rows, made.positions, made.tiles, slots.numel(), len(made.tiles),
            **schedule_constants(slots.shape[1], num_experts, block_rows),
        )  # fmt: skip
    return made


def schedule_torch(topk_slots: torch.Tensor, num_experts: int, block_rows: int) -> Schedule:
    """Do what ``schedule`` does; ``rows`` past the last choice of an expert are undefined, as there."""
    made = _empty_schedule(topk_slots, num_experts, block_rows)
    slots = torch.where((topk_slots >= 0) & (topk_slots < num_experts), topk_slots, num_experts).flatten().long()
    order = slots.argsort(stable=True)
    made.rows.copy_(order // topk_slots.shape[1])
    made.positions.view(-1)[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    made.positions.view(-1)[slots == num_experts] = -1
    tiles, position = [], 0
    for expert, count in enumerate(slots.bincount(minlength=num_experts + 1)[:num_experts].tolist()):
        end = position + count
        tiles += [[expert, first, end] for first in range(position, end, block_rows)]
        position = end
    tiles += [[-1, position, position]] * (len(made.tiles) - len(tiles))
    made.tiles.copy_(torch.tensor(tiles, dtype=torch.int32).view(-1, 3))
    return made


@dataclass(frozen=True)
class Choices:
    """What each row is made of: the products at ``positions`` [T, A] int32, -1 for none, times ``weights`` [T, A]."""

    positions: torch.Tensor
    weights: torch.Tensor


def combine(
    parts: torch.Tensor, choices: Choices | None, y: torch.Tensor, nonfinite: torch.Tensor | None = None
) -> torch.Tensor:
    """Write to ``y`` [T, N], for each row, the sum of weight x product over its ``choices``, by ascending position.

    ``parts`` [S, C, N] float32 are what products are sums of; without choices every row is the product at its position.
    ``nonfinite`` [1] int32 is set to 1 when a sum is NaN or infinite, and otherwise left alone. Returns ``y``.
    """
    pointers = (choices.positions, choices.weights.contiguous()) if choices else (None, None)
    num_chosen = choices.positions.shape[1] if choices else 1
    num_parts, num_positions, num_columns = parts.shape
    if len(y):
        with on_device(y.device):
            kernels.combine[(len(y), -(-num_columns // COMBINE_COLUMNS))](
                parts, *pointers, y, nonfinite, num_positions,
                **combine_constants(num_parts, num_columns, num_chosen), **COMBINE_OPTIONS,
            )  # fmt: skip
    return y


def combine_torch(
    parts: torch.Tensor, choices: Choices | None, y: torch.Tensor, nonfinite: torch.Tensor | None = None
) -> torch.Tensor:
    """Do what ``combine`` does."""
    values = sum(parts[1:], start=parts[0])  # [C, N]
    if choices is None:
        y.copy_(values)
    else:
        positions, order = choices.positions.sort(dim=1)
        weights = choices.weights.gather(1, order)
        y.zero_()
        for position, weight in zip(positions.T, weights.T, strict=True):
            is_there = position >= 0
            y[is_there] += weight[is_there, None] * values[position[is_there].long()]
    if nonfinite is not None and not y.isfinite().all():
        nonfinite.fill_(1)
    return y


def schedule_constants(num_chosen: int, num_experts: int, block_rows: int) -> dict[str, object]:
    """Name the compile-time arguments of the ``schedule`` kernel."""
    return {
        "NUM_CHOSEN": num_chosen,
        "NUM_EXPERTS": num_experts,
        "EXPERTS": triton.next_power_of_2(num_experts + 1),
        "BLOCK_M": block_rows,
        "CHUNK": SCHEDULE_CHOICES,
    }


def combine_constants(num_parts: int, num_columns: int, num_chosen: int) -> dict[str, object]:
    """Name the compile-time arguments of the ``combine`` kernel."""
    return {
        "NUM_PARTS": num_parts,
        "NUM_COLUMNS": num_columns,
        "NUM_CHOSEN": num_chosen,
        "CHOSEN": triton.next_power_of_2(num_chosen),
        "BLOCK": COMBINE_COLUMNS,
    }


def _empty_schedule(topk_slots: torch.Tensor, num_experts: int, block_rows: int) -> Schedule:
    num_choices, device = topk_slots.numel(), topk_slots.device
    num_tiles = count_tiles(num_choices, num_experts, block_rows)
    return Schedule(
        torch.empty(num_choices, dtype=torch.int32, device=device),
        torch.empty(topk_slots.shape, dtype=torch.int32, device=device),
        torch.empty(num_tiles, 3, dtype=torch.int32, device=device),
    )
