"""The C kernels as a library of this process. Knows where one comes from and the signatures, not the layout of data."""

import ctypes
import logging
from ctypes import c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

from expertmesh.kernels.native.build import BuildError, build, default_directory
from expertmesh.kernels.native.prebuilt import DIRECTORY, find

logger = logging.getLogger(__name__)

COMPILER = "cc"
# Functions of the library: what they return and take. Pointers are plain addresses.
SIGNATURES = {
    "dot_tile_outputs": (c_int64, ()),
    "dot_codes_bytes": (c_int64, (c_void_p,)),
    "dot_scratch_bytes": (c_int64, (c_void_p, c_int64)),
    "half_weights_bytes": (c_int64, (c_void_p,)),
    "half_scratch_bytes": (c_int64, (c_void_p, c_int64)),
    "half_pack": (None, (c_void_p, c_void_p, c_int)),
    "half_multiply": (None, (c_void_p, c_void_p, c_void_p, c_void_p, c_int)),
    "dot_pack": (None, (c_void_p, c_void_p, c_int)),
    "dot_multiply": (None, (c_void_p, c_void_p, c_void_p, c_void_p, c_int)),
    "swiglu_scratch_bytes": (c_int64, (c_void_p, c_int64)),
    "swiglu_run": (None, (c_void_p, c_void_p, c_void_p, c_void_p, c_int)),
    "attention_scratch_bytes": (c_int64, (c_void_p, c_int)),
    "attention_run": (None, (c_void_p, c_void_p, c_int)),
}


@cache
def load_default() -> ctypes.CDLL | None:
    """Load the kernels, compiled ahead or here; None, and one warning, where neither is possible."""
    return load(COMPILER, default_directory(), DIRECTORY)


def load(compiler: str, cache_directory: Path, prebuilt_directory: Path) -> ctypes.CDLL | None:
    """Like ``load_default``, with another compiler or other directories."""
    try:
        return _declare(ctypes.CDLL(str(find(prebuilt_directory) or build(compiler, cache_directory))))
    except (BuildError, OSError) as error:
        logger.warning("native kernels are not available, torch's are used instead: %s", error)
        return None


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in SIGNATURES.items():
        function = library[name]
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    return library
