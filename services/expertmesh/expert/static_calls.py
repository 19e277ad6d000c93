"""Calls that always use the same memory, so that a GPU can replay what it once did. Knows rows, not who calls.

Alphabet: T rows there is room for, U of them in use, A experts chosen per row, D hidden width.
"""

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.expert.store import ExpertStore
from expertmesh.kernels.backend import DeviceFFN
from expertmesh.model.mirror import Mirror
from expertmesh.model.recording import BySize, Record, Report, Work, run_directly

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
        report: Report = lambda done, total: None,
    ) -> None:
        self._num_chosen = num_chosen
        self._dtype = dtype

        def make(size: int) -> tuple[CallMemory, list[Work]]:
            memory = CallMemory(size, num_chosen, store.hidden_size, dtype, store.device)
            return memory, [record(partial(_run, layer, memory)) for layer in _on_device(store)]

        self._recorded = BySize(max_rows, make, report)

    def fits(self, hidden: torch.Tensor, slots: npt.NDArray[np.int64]) -> bool:
        """Whether a call was recorded."""
        has_room = self._recorded.has_room(len(hidden))
        return has_room and hidden.dtype == self._dtype and slots.shape[1] == self._num_chosen

    def run(
        self, layer: int, hidden: torch.Tensor, slots: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
    ) -> torch.Tensor:
        """Run a call that fits: ``hidden`` [U, D], ``slots`` and ``weights`` [U, A]; returns [U, D] on the CPU."""
        memory, works = self._recorded.smallest(len(hidden))
        memory.load(hidden, slots, weights)
        works[layer]()
        return memory.answer(len(hidden))


class CallMemory:
    """What a call brings and what it is answered with, on the host and on the device; on a CPU both are one."""

    def __init__(
        self, num_rows: int, num_chosen: int, hidden_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shapes = ((num_rows, num_chosen), (num_rows, num_chosen), (num_rows, hidden_size))
        types = (torch.int32, torch.float32, dtype)
        sizes = [_align(math.prod(shape) * kind.itemsize) for shape, kind in zip(shapes, types, strict=True)]
        # One piece, so that one copy takes it all.
        self._call = Mirror(sum(sizes), dtype=torch.uint8, device=device)

        def views(piece: torch.Tensor) -> list[torch.Tensor]:
            parts = zip(piece.split_with_sizes(sizes), types, shapes, strict=True)
            return [part.view(kind)[: math.prod(shape)].view(shape) for part, kind, shape in parts]

        *choices, self._host_hidden = views(self._call.host)
        # What is received is read-only, of which torch would warn.
        self._host_slots, self._host_weights = (values.numpy() for values in choices)
        self.slots, self.weights, self.hidden = views(self._call.device)
        self.total = Mirror(num_rows, hidden_size, dtype=torch.float32, device=device)  # [T, D]

    def load(self, hidden: torch.Tensor, slots: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]) -> None:
        """Take a call of U rows; the rest is padding, which chooses nobody."""
        num_rows = len(hidden)
        self._host_hidden[:num_rows] = hidden
        self._host_weights[:num_rows] = weights
        self._host_slots[:num_rows] = slots
        self._host_slots[num_rows:] = -1

    def fetch(self) -> None:
        """Copy the call to the device."""
        self._call.to_device()

    def answer(self, num_rows: int) -> torch.Tensor:
        """Return the answer to U rows, in memory of its own: the next call may run before it has been sent."""
        return self.total.host[:num_rows].clone()


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
    layer.run_chosen(memory.hidden, memory.slots, memory.weights, memory.total.device)
    memory.total.to_host()
