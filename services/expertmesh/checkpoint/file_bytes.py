"""From the bytes of a file to a tensor. Knows where a part of a tensor lies, not what files hold besides.

Read, not mapped: a mapped page costs more to touch than to copy, and what is read can go where a GPU takes it from.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from expertmesh.architectures.dialects import Part
from expertmesh.checkpoint.dtype_names import DTYPES
from expertmesh.checkpoint.entry import Room, TensorEntry
from expertmesh.errors import CheckpointError
from expertmesh.kernels.pages import empty_on_huge_pages


def read_tensor(entry: TensorEntry, start: int, part: Part = (), room: Room | None = None) -> torch.Tensor:
    """Read ``part`` of a tensor whose values begin at byte ``start`` of its file, into ``room`` or on huge pages.

    CheckpointError when torch has no such dtype; EOFError when the file ends before the part does; OSError.
    """
    if entry.dtype not in DTYPES:
        raise CheckpointError(f"{entry.file}: values of {entry.dtype} are not supported; {', '.join(DTYPES)} are")
    dtype = DTYPES[entry.dtype]
    first, shape, rest = _narrow(entry.shape, part)
    values = (room or empty_on_huge_pages)(math.prod(shape) * dtype.itemsize)
    _fill(values, entry.file, start + first * dtype.itemsize)
    tensor = values.view(dtype).view(shape)
    return tensor[rest] if rest else tensor


def _narrow(shape: Sequence[int], part: Part) -> tuple[int, Sequence[int], Part]:
    """Find what holds ``part`` of a tensor of ``shape`` without gaps: its first value, its shape, the part of it."""
    first = 0
    for place, index in enumerate(part):
        size = math.prod(shape[1:])
        if isinstance(index, slice):
            begin, end, step = index.indices(shape[0])
            if step != 1:
                return first, shape, part[place:]
            rest = part[place + 1 :]
            return first + begin * size, (max(0, end - begin), *shape[1:]), (slice(None), *rest) if rest else ()
        first += range(shape[0])[index] * size
        shape = shape[1:]
    return first, shape, ()


def _fill(values: torch.Tensor, path: Path, start: int) -> None:
    """Fill ``values`` [n] uint8 with the bytes of a file from ``start`` on, without the interpreter lock."""
    left = memoryview(values.numpy().data)
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while left:
            count = file.readinto(left)
            if not count:
                raise EOFError(f"the file ends {len(left)} bytes too early")
            left = left[count:]
