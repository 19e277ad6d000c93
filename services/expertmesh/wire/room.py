"""How a call and its answer lie in memory that both ends share. Knows the layout, not how memory is shared.

A room begins at a multiple of 64 KiB: hidden [U, D], then, at the next multiple of 64 bytes, partial [U, D] float32.
Frames name it by its ``place``: that multiple, counted from 1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

# The largest pages that Linux is built with, so that no two rooms share one.
UNIT_BYTES = 64 * 1024
_ALIGNMENT_BYTES = 64


class Room(NamedTuple):
    """Views of a room, which keep its memory."""

    place: int
    hidden: torch.Tensor
    partial: torch.Tensor


def room_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of the room for a call of ``shape`` [U, D]."""
    return _hidden_bytes(shape, dtype) + math.prod(shape) * torch.float32.itemsize


def place_of(start: int) -> int:
    """Name the room that begins at byte ``start``."""
    return 1 + start // UNIT_BYTES


def start_of(place: int) -> int:
    """Return the first byte of a room."""
    return (place - 1) * UNIT_BYTES


def open_room(place: int, memory: npt.NDArray[np.uint8], shape: Sequence[int], dtype: torch.dtype) -> Room:
    """Lay out the room for a call of ``shape`` [U, D], which has at least one value, in its ``memory``."""
    whole, num_values = torch.from_numpy(memory), math.prod(shape)
    hidden = whole[: num_values * dtype.itemsize].view(dtype).view(*shape)
    first = _hidden_bytes(shape, dtype)
    partial = whole[first : first + num_values * torch.float32.itemsize].view(torch.float32).view(*shape)
    return Room(place, hidden, partial)


def _hidden_bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
