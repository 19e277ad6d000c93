"""Instruction sets that the C kernels are compiled for. Knows processors and compiler flags, not sources or libraries.

Within one instruction set the same rows give the same bits on every processor; two of them may differ in the last bits.
"""

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

AUTO = "auto"
# The least first. A processor that has one has those before it, too.
NAMES = ("avx2", "avx512", "avx512-bf16", "amx")
CPU_INFO = Path("/proc/cpuinfo")
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18


@dataclass(frozen=True)
class Variant:
    """The kernels as compiled with ``flags``, for processors of which /proc/cpuinfo says all of ``features``.

    Variants of one ``isa`` compute the same bits: where they differ is in instructions for exact integer products.
    """

    name: str
    isa: str
    flags: tuple[str, ...]
    features: frozenset[str]


_V3 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_V4_VNNI = _V4 | {"avx512_vnni"}
_V4_BF16 = _V4_VNNI | {"avx512_bf16"}
_V4_FLAGS = ("-march=x86-64-v4",)
_VNNI_FLAGS = (*_V4_FLAGS, "-mavx512vnni")
_BF16_FLAGS = (*_VNNI_FLAGS, "-mavx512bf16")
_AMX_FLAGS = (*_BF16_FLAGS, "-mamx-tile", "-mamx-int8", "-mamx-bf16")
# The best first. v3 and v4 are levels of the x86-64 psABI.
VARIANTS = (
    Variant("amx", "amx", _AMX_FLAGS, _V4_BF16 | {"amx_tile", "amx_int8", "amx_bf16"}),
    Variant("avx512-bf16", "avx512-bf16", _BF16_FLAGS, _V4_BF16),
    Variant("avx512-vnni", "avx512", _VNNI_FLAGS, _V4_VNNI),
    Variant("avx512", "avx512", _V4_FLAGS, _V4),
    Variant("avx2-vnni", "avx2", ("-march=x86-64-v3", "-mavxvnni"), _V3 | {"avx_vnni"}),
    Variant("avx2", "avx2", ("-march=x86-64-v3",), _V3),
)


def request_tiles() -> bool:
    """Ask the system for AMX's tile registers, which a process may not touch before; tell whether it grants them."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    arguments = (ctypes.c_long(value) for value in (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA))
    return bool(syscall(*arguments) == 0)


def usable_variants(cpu_info: Path = CPU_INFO, grants_tiles: Callable[[], bool] = request_tiles) -> tuple[Variant, ...]:
    """Return what this processor can run and the system lets it, the best first."""
    features = _read_features(cpu_info)
    runnable = (variant for variant in VARIANTS if variant.features <= features)
    return tuple(variant for variant in runnable if variant.isa != "amx" or grants_tiles())


def choose_variants(isa: str, usable: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Return those of ``usable`` that ``isa`` asks for, the best first: "auto" means all of them.

    ValueError for a name that does not exist, and for an instruction set that is not among ``usable``.
    """
    if isa == AUTO:
        return usable
    if isa not in NAMES:
        raise ValueError(f"instruction set {isa!r} is unknown; use one of {', '.join((AUTO, *NAMES))}")
    chosen = tuple(variant for variant in usable if variant.isa == isa)
    if not chosen:
        found = ", ".join(names_of(usable)) or "none of these"
        raise ValueError(f"instruction set {isa} is not to be had on this machine, which has {found}")
    return chosen


def names_of(variants: tuple[Variant, ...]) -> tuple[str, ...]:
    """Return the instruction sets of ``variants``, the least first."""
    found = {variant.isa for variant in variants}
    return tuple(name for name in NAMES if name in found)


def _read_features(cpu_info: Path) -> frozenset[str]:
    """Read the flags of the first processor; none where there is no such file or no such line, as on other systems."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())
