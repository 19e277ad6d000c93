"""What codes of other tools can be, in numbers. Knows no tensors and needs no torch."""

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
