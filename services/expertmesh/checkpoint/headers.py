"""Whether tensors can be what a model needs, as the headers of their files describe them. Reads no weights.

Alphabet: N outputs, G groups of inputs that share scales.
"""

from collections.abc import Mapping

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.codes import Kind
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.errors import CheckpointError

PLAIN_DTYPES = ("F32", "F16", "BF16")


def check_plain(location: Location, entry: TensorEntry, spec: TensorSpec) -> None:
    """Raise CheckpointError when plain values have another shape than ``spec``, or no dtype that can be read."""
    where = f"{entry.file}: {location.name} is"
    shape = _shape_of_part(location, entry)
    if shape != spec.shape:
        found = f"{list(shape)}" + (f" (of {list(entry.shape)})" if location.part else "")
        raise CheckpointError(f"{where} {found}; {list(spec.shape)} would be right")
    if entry.dtype not in PLAIN_DTYPES:
        raise CheckpointError(f"{where} {entry.dtype}; F32, F16 or BF16 would be right")


def find_problem(prefix: str, entries: Mapping[str, TensorEntry], spec: TensorSpec, kind: Kind) -> str | None:
    """Tell what keeps packed tensors, given by their parts, from being a matrix like ``spec``; None if nothing does.

    Only codes and scales are looked at: with these the rest is checked when it is read.
    """
    codes, scales = kind.layout.codes, kind.layout.scales
    return _find_wrong_codes(f"{prefix}.{codes}", entries[codes], spec, kind) or _find_wrong_groups(
        prefix, entries[scales], spec, kind
    )


def _find_wrong_codes(name: str, entry: TensorEntry, spec: TensorSpec, kind: Kind) -> str | None:
    num_out, num_in = spec.shape
    shape = kind.codes_shape(num_out, num_in)
    if (entry.dtype, entry.shape) == ("I32", shape):
        return None
    right = f"I32 {list(shape)} would be right for {kind}"
    return f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; {right}"


def _find_wrong_groups(prefix: str, scales: TensorEntry, spec: TensorSpec, kind: Kind) -> str | None:
    num_out, num_in = spec.shape
    size = kind.group_size if kind.group_size > 0 else num_in
    shape = scales.shape if kind.layout.has_inputs_first else scales.shape[::-1]  # [G, N]
    if shape[1:] != (num_out,) or not shape[0]:
        right = f"[groups, {num_out}]" if kind.layout.has_inputs_first else f"[{num_out}, groups]"
        found = f"{prefix}.{kind.layout.scales} is {scales.dtype} {list(scales.shape)}"
        return f"{scales.file}: {found}; floating point {right} would be right"
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
