"""Who has which part of the memory that a link shares with its server. Knows views and gaps, not calls.

A room is free again once nobody looks at it any more: neither the call, nor the link that is owed an answer, which may
come late, nor who adds the answer up. So it is found out by references alone.
"""

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch

from expertmesh.rpc.shared_memory import SharedMemory
from expertmesh.wire.failures import WireError
from expertmesh.wire.frames import Header
from expertmesh.wire.room import UNIT_BYTES, Room, open_room, place_of, room_bytes


class Owed(NamedTuple):
    """What a call is owed: an answer of ``shape`` [U, D], which may lie in the ``room`` of the call, if it has one."""

    shape: tuple[int, int]
    room: Room | None

    def find(self, header: Header) -> torch.Tensor:
        """Return the partial rows of an answer that has a place; WireError when it is not that of its call."""
        place = self.room.place if self.room else 0
        if self.room is None or header.place != place or (header.num_rows, header.width) != self.shape:
            raise WireError(
                f"an answer of {header.num_rows} rows of {header.width} values lies at place {header.place}; "
                f"{list(self.shape)} at {place} would be right"
            )
        return self.room.partial


class Rooms:
    """Rooms for calls in ``memory``; those at its beginning are used first, so that no page is touched in vain."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._num_touched = 0
        self._taken: WeakValueDictionary[int, npt.NDArray[np.uint8]] = WeakValueDictionary()  # by their first byte

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor | None:
        """Return memory for the hidden states of a call of ``shape`` [U, D]; None when there is not enough."""
        num_bytes = room_bytes(shape, dtype)
        start = self._find_gap(num_bytes)
        if start is None:
            return None
        self._touch(start + num_bytes)
        memory = self._taken[start] = self._memory.view(start, num_bytes)
        return open_room(place_of(start), memory, shape, dtype).hidden

    def room_of(self, hidden: torch.Tensor) -> Room | None:
        """Return the room that these hidden states lie in, if they do."""
        start = hidden.data_ptr() - self._memory.address
        memory = self._taken.get(start)
        return None if memory is None else open_room(place_of(start), memory, hidden.shape, hidden.dtype)

    def _find_gap(self, num_bytes: int) -> int | None:
        start = 0
        for taken, memory in sorted(self._taken.items()):
            if taken - start >= num_bytes:
                return start
            start = _round_up(taken + memory.nbytes)
        return start if start + num_bytes <= self._memory.num_bytes else None

    def _touch(self, end: int) -> None:
        if end > self._num_touched:
            self._memory.touch(self._num_touched, _round_up(end) - self._num_touched)
            self._num_touched = _round_up(end)


def _round_up(end: int) -> int:
    return -(-end // UNIT_BYTES) * UNIT_BYTES
