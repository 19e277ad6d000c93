"""Memory that two processes of one host share, handed over a Unix socket. Knows pages, not what lies in them.

It is a file without a name (memfd_create(2)), so it needs no mount such as /dev/shm and is gone with the last process
that has it. Its size is sealed: if the maker could shrink it, the other end would die of SIGBUS. Its contents may be
changed by either end at any time: what one decides upon, it copies before.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import numpy.typing as npt

# What a peer may hand over. Its pages are the maker's as long as that touches them first.
MAX_SHARED_BYTES = 1 << 28
_MADV_POPULATE_WRITE = 23


class SharedMemory:
    """Pages of a file; views keep them, even beyond this."""

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._pages = mmap.mmap(descriptor, num_bytes)
        self.num_bytes = num_bytes
        self.address: int = np.frombuffer(self._pages, np.uint8).ctypes.data

    def view(self, start: int, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Return bytes that lie within, as an array that owns itself; ValueError for others."""
        return np.frombuffer(self._pages, np.uint8, num_bytes, start)

    def touch(self, start: int, num_bytes: int) -> None:
        """Have whole pages charged to this process, all at once."""
        with suppress(OSError):  # before Linux 5.14 whoever writes to a page first is charged
            self._pages.madvise(_MADV_POPULATE_WRITE, start, num_bytes)


@contextmanager
def make_shared(num_bytes: int) -> Iterator[tuple[SharedMemory, int]]:
    """Make memory, and a descriptor to hand over within ``with``; OSError where there is none to be had."""
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no memfd_create")
    descriptor = os.memfd_create("expertmesh", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, num_bytes)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        yield SharedMemory(descriptor, num_bytes), descriptor
    finally:
        os.close(descriptor)


def take_shared(descriptor: int) -> SharedMemory:
    """Take memory that a peer handed over, whose descriptor stays open; OSError, with what is wrong, for any other."""
    seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    if not seals & fcntl.F_SEAL_SHRINK:
        raise OSError(f"shared memory has seals {seals:#x}; F_SEAL_SHRINK, {fcntl.F_SEAL_SHRINK:#x}, would be right")
    # A huge page that is punched out and cannot be had again is SIGBUS too.
    if (page_bytes := os.statvfs(descriptor).f_bsize) != mmap.PAGESIZE:
        raise OSError(f"shared memory has pages of {page_bytes} bytes; {mmap.PAGESIZE} would be right")
    num_bytes = os.fstat(descriptor).st_size
    if not 0 < num_bytes <= MAX_SHARED_BYTES:
        raise OSError(f"shared memory has {num_bytes} bytes; 1 to {MAX_SHARED_BYTES} would be right")
    return SharedMemory(descriptor, num_bytes)
