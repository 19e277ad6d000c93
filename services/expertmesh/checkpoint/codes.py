"""How files hold the codes of a matrix: which tensors, of which shapes. Knows no keys of a configuration and no torch.

Alphabet: N outputs, K inputs, b bits of a code.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from expertmesh.kernels.formats import AWQ_BITS, WORD_BITS, GptqFormat

SUPPORTED = (
    "awq 4-bit gemm, gptq with 2, 3, 4 or 8 bits, auto-round packed like either, "
    "compressed-tensors pack-quantized with 4 or 8 bits, or no quantization"
)


@dataclass(frozen=True)
class Layout:
    """What the tensors of a packed matrix are called behind its name; ``has_inputs_first`` of scales [groups, N]."""

    codes: str
    zeros: str
    scales: str
    others: tuple[str, ...]
    has_inputs_first: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """All of them."""
        return self.codes, self.zeros, self.scales, *self.others


AWQ_LAYOUT = Layout("qweight", "qzeros", "scales", ("bias",), has_inputs_first=True)
GPTQ_LAYOUT = Layout("qweight", "qzeros", "scales", ("g_idx", "bias"), has_inputs_first=True)
PACK_QUANTIZED_LAYOUT = Layout(
    "weight_packed",
    "weight_zero_point",
    "weight_scale",
    ("weight_g_idx", "weight_shape", "bias"),
    has_inputs_first=False,
)
LAYOUTS = (AWQ_LAYOUT, GPTQ_LAYOUT, PACK_QUANTIZED_LAYOUT)
MAX_PARTS = max(len(layout.parts) for layout in LAYOUTS)


class _Packed:
    layout: ClassVar[Layout]

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors that are read where they are there."""
        return self.layout.parts


@dataclass(frozen=True)
class AwqConfig(_Packed):
    """AWQ's parameters; ``group_size`` input features share a scale, -1 = all of them."""

    group_size: int
    has_zero_points: bool
    bits: int = AWQ_BITS
    layout: ClassVar[Layout] = AWQ_LAYOUT

    @property
    def needed(self) -> tuple[str, ...]:
        """The tensors that must be there."""
        zeros = [self.layout.zeros] if self.has_zero_points else []
        return self.layout.codes, self.layout.scales, *zeros

    def codes_shape(self, num_out: int, num_in: int) -> tuple[int, int]:
        """Return the shape of the codes of a matrix: [K, N b / 32]."""
        return num_in, num_out * self.bits // WORD_BITS

    def __str__(self) -> str:
        return f"awq {self.bits}-bit {_describe_groups(self.group_size)}"


@dataclass(frozen=True)
class GptqConfig(_Packed):
    """GPTQ's parameters; ``group_size`` as in AWQ, ``is_ordered`` marks act-order."""

    format: GptqFormat
    group_size: int
    is_ordered: bool
    layout: ClassVar[Layout] = GPTQ_LAYOUT

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.format.bits

    @property
    def needed(self) -> tuple[str, ...]:
        """The tensors that must be there."""
        return self.layout.codes, self.layout.scales

    def codes_shape(self, num_out: int, num_in: int) -> tuple[int, int]:
        """Return the shape of the codes of a matrix: [K b / 32, N]."""
        return num_in * self.bits // WORD_BITS, num_out

    def __str__(self) -> str:
        order = " act-order" if self.is_ordered else ""
        return f"gptq {self.bits}-bit {_describe_groups(self.group_size)}{order}"


@dataclass(frozen=True)
class PackQuantizedConfig(_Packed):
    """Parameters of compressed-tensors' format pack-quantized; ``group_size`` and ``is_ordered`` as in GPTQ."""

    bits: int
    group_size: int
    has_zero_points: bool
    is_ordered: bool
    layout: ClassVar[Layout] = PACK_QUANTIZED_LAYOUT

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors that are read where they are there: symmetric codes have no use for zero points."""
        return tuple(part for part in self.layout.parts if self.has_zero_points or part != self.layout.zeros)

    @property
    def needed(self) -> tuple[str, ...]:
        """The tensors that must be there."""
        zeros = [self.layout.zeros] if self.has_zero_points else []
        order = ["weight_g_idx"] if self.is_ordered else []
        return self.layout.codes, self.layout.scales, *zeros, *order

    def codes_shape(self, num_out: int, num_in: int) -> tuple[int, int]:
        """Return the shape of the codes of a matrix: [N, K b / 32]."""
        return num_out, num_in * self.bits // WORD_BITS

    def __str__(self) -> str:
        order = " act-order" if self.is_ordered else ""
        return f"compressed-tensors {self.bits}-bit {_describe_groups(self.group_size)}{order}"


# How a single matrix can be stored.
Kind = AwqConfig | GptqConfig | PackQuantizedConfig


@dataclass(frozen=True)
class MixedConfig:
    """Several kinds of matrices in one checkpoint: each is of the first kind that its tensors fit."""

    kinds: tuple[Kind, ...]

    def __str__(self) -> str:
        return " and ".join(dict.fromkeys(map(str, self.kinds)))


QuantizationConfig = Kind | MixedConfig


def kinds_of(config: QuantizationConfig) -> tuple[Kind, ...]:
    """List the kinds of matrices that there can be."""
    return config.kinds if isinstance(config, MixedConfig) else (config,)


def mix(kinds: Iterable[Kind]) -> QuantizationConfig:
    """Make a configuration of one kind or several."""
    different = tuple(dict.fromkeys(kinds))
    return different[0] if len(different) == 1 else MixedConfig(different)


def _describe_groups(group_size: int) -> str:
    return f"g{group_size}" if group_size > 0 else "no groups"
