"""From the bytes of a file to a tensor. Knows where a part of a tensor lies, not what files hold besides."""

import ctypes
import errno
import math
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from expertmesh.architectures.dialects import Part
from expertmesh.checkpoint.dtype_names import DTYPES
from expertmesh.checkpoint.entry import Room, TensorEntry
from expertmesh.errors import CheckpointError

MADV_POPULATE_READ = 22  # of Linux from 5.14 on


def read_tensor(entry: TensorEntry, start: int, part: Part = (), room: Room | None = None) -> torch.Tensor:
    """Read ``part`` of a tensor whose values begin at byte ``start`` of its file, into ``room``, or map it.

    CheckpointError when torch has no such dtype; EOFError when the file ends before the part does; OSError.
    """
    if entry.dtype not in DTYPES:
        raise CheckpointError(f"{entry.file}: values of {entry.dtype} are not supported; {', '.join(DTYPES)} are")
    dtype = DTYPES[entry.dtype]
    first, shape, rest = _narrow(entry.shape, part)
    start, num_bytes = start + first * dtype.itemsize, math.prod(shape) * dtype.itemsize
    if room is None and num_bytes and start % dtype.itemsize == 0:
        values = _map(entry.file, start, num_bytes)
    else:
        values = (room or _take)(num_bytes)
        _fill(values, entry.file, start)
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


def _map(path: Path, start: int, num_bytes: int) -> torch.Tensor:
    """Map bytes of a file, uint8 [num_bytes]; what is not in the system's cache yet is read from disk now.

    117 MB in the cache take 4 ms, when their pages are touched one by one 8 to 15, and to copy them 14.
    """
    skipped = start % mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < start + num_bytes:
            raise EOFError("the file ends too early")
        memory = mmap.mmap(
            file.fileno(), skipped + num_bytes, access=mmap.ACCESS_COPY, offset=start - skipped
        )  # what a tensor may be written to goes to a page of its own
    mapped = torch.frombuffer(memory, dtype=torch.uint8)
    _populate(mapped)
    return mapped[skipped:]


def _populate(mapped: torch.Tensor) -> None:
    """Map all pages at once, without the interpreter lock; OSError when they cannot be read."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        address, length = ctypes.c_void_p(mapped.data_ptr()), ctypes.c_size_t(mapped.nbytes)
        if library.madvise(address, length, MADV_POPULATE_READ) and ctypes.get_errno() != errno.EINVAL:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _take(num_bytes: int) -> torch.Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8)


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
