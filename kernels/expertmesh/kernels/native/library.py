"""The C kernels as a library of this process. Knows where one comes from and the signatures, not the layout of data."""

import ctypes
import logging
from collections.abc import Sequence
from ctypes import c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

from expertmesh.kernels.native.build import BuildError, build, default_directory
from expertmesh.kernels.native.isa import AUTO, Variant, choose_variants, usable_variants
from expertmesh.kernels.native.prebuilt import DIRECTORY, find

logger = logging.getLogger(__name__)

COMPILER = "cc"
# Functions of the library: what they return and take. Pointers are plain addresses.
SIGNATURES = {
    "matrix_tile_outputs": (c_int64, ()),
    "matrix_bytes": (c_int64, (c_void_p,)),
    "matrix_pack": (None, (c_void_p, c_void_p, c_int)),
    "matrix_pack_streams": (None, (c_void_p, c_void_p, c_int)),
    "matrix_scratch_bytes": (c_int64, (c_void_p, c_void_p)),
    "matrix_multiply": (None, (c_void_p, c_void_p, c_void_p, c_void_p, c_int)),
    "swiglu_scratch_bytes": (c_int64, (c_void_p, c_void_p)),
    "swiglu_run": (None, (c_void_p, c_void_p, c_void_p, c_void_p, c_int)),
    "swiglu_activate": (None, (c_void_p, c_void_p, c_void_p, c_int64, c_int)),
    "attention_scratch_bytes": (c_int64, (c_void_p, c_int)),
    "attention_run": (None, (c_void_p, c_void_p, c_int)),
}


class Library(ctypes.CDLL):
    """The kernels of one instruction set, ``isa``."""

    def __init__(self, file: Path, isa: str) -> None:
        super().__init__(str(file))
        self.isa = isa
        for name, (result, arguments) in SIGNATURES.items():
            function = self[name]
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)


@cache
def load_default(isa: str = AUTO) -> Library | None:
    """Load the kernels for ``isa``, compiled ahead or here; None, and one warning, where neither is possible.

    ValueError when this machine has no such instruction set.
    """
    return load(choose_variants(isa, usable_variants()), COMPILER, default_directory(), DIRECTORY)


def load(variants: Sequence[Variant], compiler: str, cache_directory: Path, prebuilt_directory: Path) -> Library | None:
    """Load the first of ``variants`` that is there or can be built: an older compiler may not know the best."""
    errors = []
    for variant in variants:
        try:
            file = find(prebuilt_directory, variant) or build(compiler, cache_directory, variant)
            return Library(file, variant.isa)
        except (BuildError, OSError) as error:
            logger.info("there are no native kernels for %s: %s", variant.name, error)
            errors.append(error)
    reason = errors[-1] if errors else "the processor lacks AVX2, FMA or F16C"
    logger.warning("native kernels are not available, torch's are used instead: %s", reason)
    return None
