"""How this process treats freed buffers. Knows the C library's allocator, not who allocates."""

import ctypes
import sys

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_KEPT_BYTES = 1 << 30
_MAPPED_BYTES = 1 << 20


def give_back_freed_memory() -> bool:
    """Tell glibc to give large freed buffers back at once, as is right while weights are loaded; False elsewhere.

    By default it keeps more and more of them, the larger those it has seen. Measured with four layers of one Mixtral
    expert: at most 961 MB for 378 MB of weights by default, 571 MB after this.

    Threads that are started from now on share one arena, for the sake of ``keep_freed_memory``.
    """
    return _set_parameters({_M_MMAP_THRESHOLD: _MAPPED_BYTES, _M_ARENA_MAX: 1})


def keep_freed_memory() -> bool:
    """Tell glibc to keep large freed buffers for the next message instead of giving them back; False elsewhere.

    What is free now is given back first, so call it once the weights are loaded.

    By default each buffer of some MiB is fresh memory whose pages the kernel maps and zeroes one by one. Measured over
    loopback with 512 rows of Mixtral in bfloat16 in one call: 79 ms there and back by default, 33 ms after this.

    Threads that are started from now on share one arena: those of their own keep nothing that is larger than their
    heaps of 64 MiB. Zeros for 4096 rows of Mixtral in float32 took 25 ms in a thread, 1.6 ms after this.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return _set_parameters({_M_TRIM_THRESHOLD: _KEPT_BYTES, _M_MMAP_THRESHOLD: _KEPT_BYTES, _M_ARENA_MAX: 1})


def _set_parameters(parameters: dict[int, int]) -> bool:
    mallopt = getattr(_c_library(), "mallopt", None)
    return mallopt is not None and all(mallopt(*parameter) == 1 for parameter in parameters.items())


def _c_library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
