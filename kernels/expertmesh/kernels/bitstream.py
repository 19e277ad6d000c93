"""Codes of 2 to 8 bits as one little-endian bit stream in int32 words, as GPTQ stores them. Knows bits only.

Value j occupies bits [b * j, b * j + b) of the words of its column. Alphabet: L values of a column, C columns, b bits.
"""

from collections.abc import Iterator

import torch

from expertmesh.kernels.formats import WORD_BITS

# The dtype with room for so many values, a byte each.
_INTS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def pack_stream(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack ``codes`` [L, C] uint8 below 2**bits along L into int32 [L * bits / 32, C].

    ValueError when L values do not fill whole words.
    """
    num_words = _count_words(len(codes), bits)
    words = torch.zeros((num_words, codes.shape[1]), dtype=torch.int32, device=codes.device)
    for first, (word, shift), (step, words_step) in _phases(bits):
        values = codes[first::step].int()
        words[word::words_step] |= values << shift
        if shift + bits > WORD_BITS:
            words[word + 1 :: words_step] |= values >> WORD_BITS - shift
    return words


def unpack_stream(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack int32 ``words`` [W, C] into uint8 [W * 32 / bits, C]; ValueError when W words hold no whole values."""
    num_values = _count_values(len(words), bits)
    codes = torch.empty((num_values, words.shape[1]), dtype=torch.uint8, device=words.device)
    mask = 2**bits - 1
    for first, (word, shift), (step, words_step) in _phases(bits):
        # The right shift of a negative int32 fills in ones: the mask, or the one below, takes them away.
        values = words[word::words_step] >> shift
        if shift + bits > WORD_BITS:
            kept = WORD_BITS - shift
            values = values & 2**kept - 1 | words[word + 1 :: words_step] << kept
        codes[first::step] = values & mask
    return codes


def unpack_columns(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpack int32 ``words`` [W, C] into uint8 [C, W * 32 / bits], a row per column; ValueError as ``unpack_stream``.

    Whole words are transposed, not values, and all values of a byte, or of ``bits`` bytes, are spread out at once: that
    takes half the time.
    """
    if bits in (5, 6, 7):  # halves would overlap while they are spread out
        return unpack_stream(words, bits).T.contiguous()
    num_values = _count_values(len(words), bits)
    packed = words.T.flatten().view(torch.uint8).view(words.shape[1], -1)  # [C, 4 * W]
    fields = _join_bytes(packed, bits) if 8 % bits else packed.to(_INTS[8 // bits])
    field_bits = lane_bits = fields.element_size() * 8
    while lane_bits > 8:
        lane_bits //= 2
        half_bits = lane_bits // 8 * bits  # of each half of what a lane held: the upper one moves to a lane of its own
        mask = sum((1 << half_bits) - 1 << start for start in range(0, field_bits, lane_bits))
        fields.bitwise_or_(fields << lane_bits - half_bits).bitwise_and_(mask)
    return fields.view(torch.uint8).view(-1, num_values)


def _join_bytes(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Make an int64 of every ``bits`` bytes of ``packed`` [C, B]: eight values."""
    units = packed.view(len(packed), -1, bits)
    joined = units[..., 0].to(torch.int64)
    for byte in range(1, bits):
        joined |= units[..., byte].to(torch.int64) << 8 * byte
    return joined


def _phases(bits: int) -> Iterator[tuple[int, tuple[int, int], tuple[int, int]]]:
    """Yield for each value of a period its index, its (word, shift), and the period in (values, words)."""
    period_words = bits if WORD_BITS % bits else 1
    period_values = period_words * WORD_BITS // bits
    for value in range(period_values):
        yield value, divmod(value * bits, WORD_BITS), (period_values, period_words)


def _count_words(num_values: int, bits: int) -> int:
    if num_values * bits % WORD_BITS:
        raise ValueError(f"{num_values} values of {bits} bits do not fill whole {WORD_BITS}-bit words")
    return num_values * bits // WORD_BITS


def _count_values(num_words: int, bits: int) -> int:
    if num_words * WORD_BITS % bits:
        raise ValueError(f"{num_words} words of {WORD_BITS} bits do not hold whole values of {bits} bits")
    return num_words * WORD_BITS // bits
