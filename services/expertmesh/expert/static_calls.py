"""Calls that always use the same memory, so that a GPU can replay what it once did. Knows rows, not who calls.

Alphabet: T rows there is room for, U of them in use, A experts chosen per row, D hidden width.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.backend import DeviceFFN
from expertmesh.model.recording import Record, Work, buckets, run_directly

ALIGNMENT_BYTES = 16


class StaticCalls:
    """Calls of up to ``max_rows`` rows of ``dtype`` with A choices each, recorded for each layer when this is made.

    The layers of ``store`` need not ask their host (``DeviceFFN``). One call runs at a time. ``report`` is told (sizes
    recorded, of).
    """

    def __init__(
        self,
        store: ExpertStore,
        num_chosen: int,
        dtype: torch.dtype,
        max_rows: int,
        record: Record = run_directly,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._num_chosen = num_chosen
        self._dtype = dtype
        self._recorded: dict[int, tuple[CallMemory, list[Work]]] = {}
        sizes = buckets(max_rows)
        # The largest first: what it leaves of its memory is enough for the others.
        for index, size in enumerate(reversed(sizes)):
            memory = CallMemory(size, num_chosen, store.hidden_size, dtype, store.device)
            self._recorded[size] = memory, [record(partial(_run, layer, memory)) for layer in _on_device(store)]
            report(index + 1, len(sizes))

    def fits(self, hidden: torch.Tensor, slots: npt.NDArray[np.int64]) -> bool:
        """Whether a call was recorded."""
        has_room = len(hidden) <= max(self._recorded, default=0)
        return has_room and hidden.dtype == self._dtype and slots.shape[1] == self._num_chosen

    def run(
        self, layer: int, hidden: torch.Tensor, slots: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
    ) -> torch.Tensor:
        """Run a call that fits: ``hidden`` [U, D], ``slots`` and ``weights`` [U, A]; returns [U, D] on the CPU."""
        memory, works = self._recorded[min(size for size in self._recorded if size >= len(hidden))]
        memory.load(hidden, slots, weights)
        works[layer]()
        return memory.answer(len(hidden))


class CallMemory:
    """What a call brings and what it is answered with, on the host and on the device; on a CPU both are one."""

    def __init__(
        self, num_rows: int, num_chosen: int, hidden_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        is_apart = device.type != "cpu"
        shapes = ((num_rows, num_chosen), (num_rows, num_chosen), (num_rows, hidden_size))
        types = (torch.int32, torch.float32, dtype)
        sizes = [_align(math.prod(shape) * kind.itemsize) for shape, kind in zip(shapes, types, strict=True)]
        # One piece, so that one copy takes it all.
        self._host = torch.zeros(sum(sizes), dtype=torch.uint8, pin_memory=is_apart)
        self._device = torch.zeros(sum(sizes), dtype=torch.uint8, device=device) if is_apart else self._host

        def views(piece: torch.Tensor) -> list[torch.Tensor]:
            parts = zip(piece.split_with_sizes(sizes), types, shapes, strict=True)
            return [part.view(kind)[: math.prod(shape)].view(shape) for part, kind, shape in parts]

        *choices, self._host_hidden = views(self._host)
        # What is received is read-only, of which torch would warn.
        self._host_slots, self._host_weights = (values.numpy() for values in choices)
        self.slots, self.weights, self.hidden = views(self._device)
        self.total = torch.zeros(num_rows, hidden_size, device=device)  # [T, D]
        self._host_total = torch.zeros(num_rows, hidden_size, pin_memory=True) if is_apart else self.total
        self.nonfinite = torch.zeros(1, dtype=torch.int32, device=device)

    def load(self, hidden: torch.Tensor, slots: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]) -> None:
        """Take a call of U rows; the rest is padding, which chooses nobody."""
        num_rows = len(hidden)
        self._host_hidden[:num_rows] = hidden
        self._host_weights[:num_rows] = weights
        self._host_slots[:num_rows] = slots
        self._host_slots[num_rows:] = -1

    def fetch(self) -> None:
        """Copy the call to the device."""
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)

    def publish(self) -> None:
        """Copy the answer to the host."""
        if self._host_total is not self.total:
            self._host_total.copy_(self.total, non_blocking=True)

    def answer(self, num_rows: int) -> torch.Tensor:
        """Return the answer to U rows, in memory of its own: the next call may run before it has been sent."""
        return self._host_total[:num_rows].clone()


def _align(num_bytes: int) -> int:
    """Round up to what kernels read at a time."""
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _on_device(store: ExpertStore) -> list[DeviceFFN]:
    layers = [layer for layer in store.layers if isinstance(layer, DeviceFFN)]
    assert len(layers) == len(store.layers), "its layers need not ask their host"
    return layers


@torch.inference_mode()
def _run(layer: DeviceFFN, memory: CallMemory) -> None:
    memory.fetch()
    layer.run_chosen(memory.hidden, memory.slots, memory.weights, memory.total, memory.nonfinite)
    memory.publish()
