"""What codes of other tools can be, in numbers. Knows no tensors and needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

WORD_BITS = 32
AWQ_BITS = 4
GPTQ_BITS = (2, 3, 4, 8)
PACK_QUANTIZED_BITS = (4, 8)


@dataclass(frozen=True)
class GptqFormat:
    """How to read the tensors: ``is_v2`` files store a zero point z, others z - 1; symmetric means z = 2**(b - 1)."""

    bits: int
    is_symmetric: bool
    is_v2: bool = False


@dataclass(frozen=True)
class Block:
    """So many outputs and inputs share a scale, -1 = all of them; blocks at the edges may be smaller."""

    num_out: int
    num_in: int

    def outputs_of(self, num_out: int) -> int:
        """Return how many outputs a block has in a matrix of so many."""
        return self.num_out if self.num_out > 0 else num_out

    def inputs_of(self, num_in: int) -> int:
        """Return how many inputs a block has in a matrix of so many."""
        return self.num_in if self.num_in > 0 else num_in

    def grid(self, num_out: int, num_in: int) -> tuple[int, int]:
        """Return how many blocks cover a matrix, along its outputs and along its inputs."""
        return -(-num_out // self.outputs_of(num_out)), -(-num_in // self.inputs_of(num_in))


def is_alike(shape: Sequence[int], grid: Sequence[int]) -> bool:
    """Tell whether two shapes differ in dimensions of 1 only."""
    return [size for size in shape if size != 1] == [size for size in grid if size != 1]


@dataclass(frozen=True)
class GgmlBlock:
    """A block of a type that GGUF files hold: so many values in so many bytes, codes of ``bits`` bits in groups.

    ``has_minima``: a group has a minimum instead of a zero point that is a code. The numbers of a group take
    ``group_bits`` once they are unpacked.
    """

    num_values: int
    num_bytes: int
    bits: int
    group_size: int
    group_bits: int
    has_minima: bool = False

    @property
    def bits_in_memory(self) -> float:
        """Bits that a value takes in the layouts of backends, which hold codes of 5 and 6 bits as 8."""
        return (self.bits if self.bits <= 4 else 8) + self.group_bits / self.group_size


# Scales are float16, or float32 as products of two numbers; zero points are bytes, or float32 between codes.
GGML_BLOCKS = {
    "Q4_0": GgmlBlock(32, 18, 4, 32, 16 + 8),
    "Q4_1": GgmlBlock(32, 20, 4, 32, 32 + 32, has_minima=True),
    "Q5_0": GgmlBlock(32, 22, 5, 32, 16 + 8),
    "Q5_1": GgmlBlock(32, 24, 5, 32, 32 + 32, has_minima=True),
    "Q8_0": GgmlBlock(32, 34, 8, 32, 16 + 8),
    "Q2_K": GgmlBlock(256, 84, 2, 16, 32 + 32, has_minima=True),
    "Q3_K": GgmlBlock(256, 110, 3, 16, 32 + 8),
    "Q4_K": GgmlBlock(256, 144, 4, 32, 32 + 32, has_minima=True),
    "Q5_K": GgmlBlock(256, 176, 5, 32, 32 + 32, has_minima=True),
    "Q6_K": GgmlBlock(256, 210, 6, 16, 32 + 8),
}
