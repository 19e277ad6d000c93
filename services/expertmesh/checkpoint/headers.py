"""Whether tensors can be what a model needs, as the headers of their files describe them. Reads no weights.

Alphabet: N outputs, K inputs, G groups of inputs that share scales, b bits of a code.
"""

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.checkpoint.quantization import AwqConfig, QuantizationConfig
from expertmesh.errors import CheckpointError
from expertmesh.kernels.formats import WORD_BITS

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


def check_qweight(name: str, entry: TensorEntry, spec: TensorSpec, quantization: QuantizationConfig) -> None:
    """Raise CheckpointError when codes have another shape than those of a matrix like ``spec``."""
    num_out, num_in = spec.shape
    if isinstance(quantization, AwqConfig):
        shape = (num_in, num_out * quantization.bits // WORD_BITS)  # [K, N b / 32]
    else:
        shape = (num_in * quantization.format.bits // WORD_BITS, num_out)  # [K b / 32, N]
    if (entry.dtype, entry.shape) != ("I32", shape):
        right = f"I32 {list(shape)} would be right for {quantization}"
        raise CheckpointError(f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; {right}")


def check_groups(prefix: str, scales: TensorEntry, spec: TensorSpec, quantization: QuantizationConfig) -> None:
    """Raise CheckpointError when scales [G, N] are those of groups of another size."""
    num_out, num_in = spec.shape
    size = quantization.group_size if quantization.group_size > 0 else num_in
    if scales.shape[1:] != (num_out,) or not scales.shape[0]:
        right = f"floating point [groups, {num_out}] would be right"
        raise CheckpointError(f"{scales.file}: {prefix}.scales is {scales.dtype} {list(scales.shape)}; {right}")
    if scales.shape[0] != -(-num_in // size):
        found = -(-num_in // scales.shape[0])
        raise CheckpointError(f"{scales.file}: {prefix} has groups of {found}; the configuration says {size}")


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
