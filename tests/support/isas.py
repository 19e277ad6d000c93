"""The instruction sets that tests run on: all that this machine has. Those that it lacks are skipped by name."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from expertmesh.kernels.native.build import default_directory
from expertmesh.kernels.native.isa import NAMES, VARIANTS, Variant, names_of, usable_variants
from expertmesh.kernels.native.library import COMPILER, Library, load, load_default

USABLE = usable_variants()
# AMX's kernels with its tiles emulated, for machines without: everything but the instructions themselves.
EMULATED = "amx, emulated"


def mark(name: str, is_usable: bool) -> object:
    """Make a parameter of ``name`` that is skipped where the machine lacks what it needs."""
    if load_default() is None:
        return pytest.param(name, marks=pytest.mark.skip("needs a C compiler and AVX2"))
    return pytest.param(name, marks=() if is_usable else pytest.mark.skip(f"this machine has no {name}"))


ISAS = [mark(name, name in names_of(USABLE)) for name in NAMES]
ISAS_AND_EMULATED = [*ISAS, mark(EMULATED, "avx512-bf16" in names_of(USABLE))]


@cache
def open_library(name: str) -> Library:
    """Load the kernels of an instruction set of this machine, or the emulated ones."""
    library = load_variant(_emulated()) if name == EMULATED else load_default(name)
    assert library is not None
    return library


@cache
def load_variant(variant: Variant) -> Library:
    """Load the kernels of one variant, compiled here."""
    library = load([variant], COMPILER, default_directory(), Path("/nonexistent"))
    assert library is not None
    return library


def _emulated() -> Variant:
    base = next(variant for variant in VARIANTS if variant.isa == "avx512-bf16")
    return replace(base, name="amx-emulated", isa="amx", flags=(*base.flags, "-DEMULATE_TILES"))
