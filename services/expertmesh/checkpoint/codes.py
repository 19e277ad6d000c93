"""How files hold the codes of a matrix: which tensors, of which shapes. Knows no keys of a configuration and no torch.

Alphabet: N outputs, K inputs, b bits of a code.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from expertmesh.checkpoint.layouts import (
    AWQ_LAYOUT,
    FLOATS,
    FOUR_BIT_LAYOUTS,
    GPTQ_LAYOUT,
    PACK_QUANTIZED_LAYOUT,
    QUANT_MAP,
    WORDS,
    Layout,
    state_of,
)
from expertmesh.kernels.formats import AWQ_BITS, WORD_BITS, Block, GptqFormat

SUPPORTED = (
    "awq 4-bit gemm, gptq with 2, 3, 4 or 8 bits, auto-round packed like either, "
    "compressed-tensors pack-quantized with 4 or 8 bits, float-quantized and int-quantized, "
    "fp8, bitsandbytes with 4 or 8 bits, or no quantization"
)


class _Packed:
    layout: ClassVar[Layout]
    codes_dtype: ClassVar[str] = WORDS
    # Whether values are what stays in memory, and not codes.
    is_unpacked: ClassVar[bool] = False

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
        return self.layout.needed(self.has_zero_points)

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
        order = ["weight_g_idx"] if self.is_ordered else []
        return *self.layout.needed(self.has_zero_points), *order

    def codes_shape(self, num_out: int, num_in: int) -> tuple[int, int]:
        """Return the shape of the codes of a matrix: [N, K b / 32]."""
        return num_out, num_in * self.bits // WORD_BITS

    def __str__(self) -> str:
        order = " act-order" if self.is_ordered else ""
        return f"compressed-tensors {self.bits}-bit {_describe_groups(self.group_size)}{order}"


@dataclass(frozen=True)
class ScaledConfig:
    """8-bit numbers of ``codes_dtype``, each ``block`` of which shares a scale; ``name`` is what people call them."""

    name: str
    layout: Layout
    codes_dtype: str
    block: Block
    has_zero_points: bool = False
    is_ordered: ClassVar[bool] = False

    @property
    def is_unpacked(self) -> bool:
        """Whether values are what stays in memory: no kernel takes 8-bit floats, while integers are codes."""
        return self.codes_dtype == FLOATS

    @property
    def group_size(self) -> int:
        """How many inputs share a scale, -1 = all of them."""
        return self.block.num_in

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors that are read where they are there: symmetric numbers have no use for zero points."""
        return tuple(part for part in self.layout.parts if self.has_zero_points or part != self.layout.zeros)

    @property
    def needed(self) -> tuple[str, ...]:
        """The tensors that must be there."""
        return self.layout.needed(self.has_zero_points)

    def codes_shape(self, num_out: int, num_in: int) -> tuple[int, int]:
        """Return the shape of the numbers of a matrix: [N, K]."""
        return num_out, num_in

    def __str__(self) -> str:
        return f"{self.name} {_describe_block(self.block)}"


@dataclass(frozen=True)
class FourBitConfig:
    """bitsandbytes' 4-bit codes of the values of ``quant_type``, nf4 or fp4."""

    quant_type: str
    is_unpacked: ClassVar[bool] = True

    @property
    def layout(self) -> Layout:
        """What its tensors are called."""
        return FOUR_BIT_LAYOUTS[self.quant_type]

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors that are read where they are there."""
        return self.layout.parts

    @property
    def needed(self) -> tuple[str, ...]:
        """The tensors that must be there."""
        return *self.layout.needed(False), QUANT_MAP, state_of(self.quant_type)

    def __str__(self) -> str:
        return f"bitsandbytes {self.quant_type}"


PackedKind = AwqConfig | GptqConfig | PackQuantizedConfig
# How a single matrix can be stored.
Kind = PackedKind | ScaledConfig | FourBitConfig


@dataclass(frozen=True)
class MixedConfig:
    """Several kinds of matrices in one checkpoint: each is of the first kind that its tensors fit."""

    kinds: tuple[Kind, ...]

    def __str__(self) -> str:
        return " and ".join(dict.fromkeys(map(str, self.kinds)))


@dataclass(frozen=True)
class GgufConfig:
    """GGUF's types of blocks that there are; each tensor is of one, and its header says of which."""

    types: tuple[str, ...]
    kinds: ClassVar[tuple[Kind, ...]] = ()

    def __str__(self) -> str:
        return f"gguf {', '.join(self.types)}"


QuantizationConfig = Kind | MixedConfig | GgufConfig


def kinds_of(config: QuantizationConfig) -> tuple[Kind, ...]:
    """List the kinds of matrices that there can be."""
    return config.kinds if isinstance(config, MixedConfig | GgufConfig) else (config,)


def mix(kinds: Iterable[Kind]) -> QuantizationConfig:
    """Make a configuration of one kind or several."""
    different = tuple(dict.fromkeys(kinds))
    return different[0] if len(different) == 1 else MixedConfig(different)


def _describe_groups(group_size: int) -> str:
    return f"g{group_size}" if group_size > 0 else "no groups"


def _describe_block(block: Block) -> str:
    if block.num_out > 1:
        return f"blocks of {block.num_out}x{block.num_in}"
    if block.num_in > 0:
        return f"g{block.num_in}"
    return "per channel" if block.num_out == 1 else "per tensor"
