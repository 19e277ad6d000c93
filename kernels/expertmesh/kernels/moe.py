"""Rows with their chosen experts in, sums of expert outputs out. Knows the order of rows, not what an expert does."""

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.kernels.backend import DeviceFFN, GroupedFFN

# On a CPU index_add_ wakes torch's threads even for one row: between two calls of a server a loop takes less.
MAX_ROWS_TO_LOOP = 32


def run_chosen(
    ffn: GroupedFFN,
    num_slots: int,
    hidden: torch.Tensor,
    topk_slots: npt.NDArray[np.integer],
    topk_weights: npt.NDArray[np.float32],
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add up, for each row, weight x expert(row) over its chosen experts among those of ``ffn``.

    ``hidden`` [T, D]; ``topk_slots`` [T, A], positions in ``ffn`` from 0 to ``num_slots`` - 1, or -1 for a choice that
    is answered elsewhere; ``topk_weights`` [T, A]. Returns [T, D] float32, ``out`` if that is given. Terms of a row are
    added in the order of their slots, so the result does not depend on who else is in the batch.
    """
    if isinstance(ffn, DeviceFFN):
        return ffn.run_chosen(hidden, *_to_device(topk_slots, topk_weights, hidden.device), out)
    slots = topk_slots.ravel()
    num_elsewhere, *num_rows = np.bincount(slots + 1, minlength=1 + num_slots).tolist()
    order = np.argsort(slots, kind="stable")[num_elsewhere:]
    rows = torch.from_numpy(order // topk_slots.shape[1]).to(hidden.device)
    row_weights = torch.from_numpy(topk_weights.ravel()[order]).to(hidden.device)
    # index_select takes a tenth of the time of hidden[rows] for 512 rows of Mixtral in bfloat16.
    outputs = ffn(hidden.index_select(0, rows), num_rows, row_weights)
    total = torch.zeros_like(hidden, dtype=torch.float32) if out is None else out.zero_()
    return add_rows(total, rows, outputs)


def _to_device(
    topk_slots: npt.NDArray[np.integer], topk_weights: npt.NDArray[np.float32], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy slots, as int32, and weights in one go."""
    both = np.stack((topk_slots.astype(np.int32), topk_weights.view(np.int32)))  # [2, T, A]
    # Not pinned, so the copy is staged before this returns; non_blocking keeps it from waiting for the device.
    slots, weights = torch.from_numpy(both).to(device, non_blocking=True)
    return slots, weights.view(torch.float32)


def add_rows(total: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Add ``values`` [R, D], in order, to those of ``total`` [T, D] that ``rows`` [R] number; returns ``total``."""
    if not total.is_cpu or len(values) > MAX_ROWS_TO_LOOP:
        return total.index_add_(0, rows, values)
    sums = total.numpy()  # numpy's views cost a fraction of torch's
    for row, value in zip(rows.tolist(), values.numpy(), strict=True):
        np.add(sums[row], value, out=sums[row])
    return total
