"""Whether tensors can be what a model needs, as the headers of their files describe them. Reads no weights.

Alphabet: N outputs, G groups of inputs that share scales.
"""

from collections.abc import Mapping

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.codes import FourBitConfig, Kind, PackedKind, ScaledConfig
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.errors import CheckpointError
from expertmesh.gguf.files import SUFFIX
from expertmesh.kernels.formats import GGML_BLOCKS, is_alike

PLAIN_DTYPES = ("F32", "F16", "BF16")


def check_plain(location: Location, entry: TensorEntry, spec: TensorSpec) -> None:
    """Raise CheckpointError when plain values have another shape than ``spec``, or no dtype that can be read.

    So are values in ggml's blocks: they lie under the name of the matrix, too.
    """
    where = f"{entry.file}: {location.name} is"
    shape = _shape_of_part(location, entry)
    if shape != spec.shape:
        found = f"{list(shape)}" + (f" (of {list(entry.shape)})" if location.part else "")
        raise CheckpointError(f"{where} {found}; {list(spec.shape)} would be right")
    *others, last = (*PLAIN_DTYPES, *GGML_BLOCKS) if entry.file.suffix == SUFFIX else PLAIN_DTYPES
    if entry.dtype not in (*others, last):
        raise CheckpointError(f"{where} {entry.dtype}; {', '.join(others)} or {last} would be right")


def find_problem(prefix: str, entries: Mapping[str, TensorEntry], spec: TensorSpec, kind: Kind) -> str | None:
    """Tell what keeps packed tensors, given by their parts, from being a matrix like ``spec``; None if nothing does.

    Only codes and scales are looked at: with these the rest is checked when it is read.
    """
    codes, scales = entries[kind.layout.codes], entries[kind.layout.scales]
    if isinstance(kind, FourBitConfig):
        return _find_wrong_bytes(f"{prefix}.{kind.layout.codes}", codes, spec, kind)
    if problem := _find_wrong_codes(f"{prefix}.{kind.layout.codes}", codes, spec, kind):
        return problem
    if isinstance(kind, ScaledConfig):
        return _find_wrong_blocks(f"{prefix}.{kind.layout.scales}", scales, spec, kind)
    return _find_wrong_groups(prefix, scales, spec, kind)


def _find_wrong_codes(name: str, entry: TensorEntry, spec: TensorSpec, kind: PackedKind | ScaledConfig) -> str | None:
    num_out, num_in = spec.shape
    shape = kind.codes_shape(num_out, num_in)
    if (entry.dtype, entry.shape) == (kind.codes_dtype, shape):
        return None
    return _differs(name, entry, f"{kind.codes_dtype} {list(shape)} would be right for {kind}")


def _find_wrong_bytes(name: str, entry: TensorEntry, spec: TensorSpec, kind: FourBitConfig) -> str | None:
    """Look at how many bytes there are: whatever their dtype, a byte holds two codes."""
    num_bytes = -(-spec.num_values // 2)
    if entry.num_bytes == num_bytes:
        return None
    return _differs(name, entry, f"{num_bytes} bytes would be right for {kind}")


def _find_wrong_blocks(name: str, scales: TensorEntry, spec: TensorSpec, kind: ScaledConfig) -> str | None:
    num_out, num_in = spec.shape
    grid = kind.block.grid(num_out, num_in)
    if is_alike(scales.shape, grid):
        return None
    return _differs(name, scales, f"floating point {list(grid)} would be right for {kind}")


def _differs(name: str, entry: TensorEntry, right: str) -> str:
    return f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; {right}"


def _find_wrong_groups(prefix: str, scales: TensorEntry, spec: TensorSpec, kind: PackedKind) -> str | None:
    num_out, num_in = spec.shape
    size = kind.group_size if kind.group_size > 0 else num_in
    shape = scales.shape if kind.layout.has_inputs_first else scales.shape[::-1]  # [G, N]
    if shape[1:] != (num_out,) or not shape[0]:
        right = f"[groups, {num_out}]" if kind.layout.has_inputs_first else f"[{num_out}, groups]"
        return _differs(f"{prefix}.{kind.layout.scales}", scales, f"floating point {right} would be right")
    if shape[0] == -(-num_in // size):
        return None
    found_size = -(-num_in // shape[0])
    return f"{scales.file}: {prefix} has groups of {found_size}; the configuration says {size}"


def _shape_of_part(location: Location, entry: TensorEntry) -> tuple[int, ...]:
    if location.part and len(location.part) >= len(entry.shape):
        raise CheckpointError(f"{entry.file}: {location.name} is {list(entry.shape)}; it should hold several matrices")
    shape = []
    for size, part in zip(entry.shape, location.part, strict=False):
        if isinstance(part, slice):
            shape.append(len(range(size)[part]))
        elif part >= size:
            raise CheckpointError(f"{entry.file}: {location.name} is {list(entry.shape)}; it holds no expert {part}")
    shape.extend(entry.shape[len(location.part) :])
    return tuple(reversed(shape)) if location.is_transposed else tuple(shape)
