"""Words of eight codes of 4 bits, and AWQ's of eight outputs among them. Knows bits only.

Nothing is unpacked here: words exchange nibbles, all of a tensor at once.
"""

import torch
from torch.nn.functional import pad

from expertmesh.kernels.formats import AWQ_BITS, WORD_BITS
from expertmesh.kernels.pages import empty

CODES_PER_WORD = WORD_BITS // AWQ_BITS
# Nibble i of a word of AWQ's holds the column 8c + NIBBLE_COLUMNS[i].
NIBBLE_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
# What a CPU takes at a time stays in its caches, and is enough to share among cores that others use too.
CACHED_BYTES = 8 << 20


def transpose_nibbles(words: torch.Tensor) -> None:
    """Exchange nibble i of word j and nibble j of word i of ``words`` [L, ...] int32 in place, for L = 2, 4 or 8.

    Nibbles are those of each L neighbours: with L = 4, a word has two sets of them.
    """
    distance = 1
    while distance < len(words):
        shift = AWQ_BITS * distance
        mask = (2**WORD_BITS - 1) // (2**shift + 1)  # the lower of every two fields of ``shift`` bits
        first, second = words.view(-1, 2, distance, *words.shape[1:]).unbind(1)
        # The right shift of a negative int32 fills in ones: the mask takes them away.
        different = (first >> shift).bitwise_xor_(second).bitwise_and_(mask)
        second.bitwise_xor_(different)
        first.bitwise_xor_(different.bitwise_left_shift_(shift))
        distance *= 2


def rows_at_once(words: torch.Tensor) -> int:
    """Return how many rows of ``words`` [W, ...] to take at a time: what the caches of a CPU hold, elsewhere all."""
    return max(1, CACHED_BYTES * len(words) // max(1, words.nbytes)) if words.is_cpu else len(words)


def streams_of_awq(words: torch.Tensor) -> torch.Tensor:
    """Turn int32 ``words`` [K, N/8] of eight outputs each into words of eight inputs each, [K/8, N], K rounded up.

    Nothing is unpacked: words of eight inputs change nibbles among them.
    """
    num_in, num_words = words.shape
    eights = pad(words, (0, 0, 0, -num_in % CODES_PER_WORD)).view(-1, CODES_PER_WORD, num_words)  # [K/8, 8, N/8]
    streams = empty((len(eights), num_words, CODES_PER_WORD), like=words)
    step = rows_at_once(eights)
    for some, out in zip(eights.split(step), streams.split(step), strict=True):
        nibbles = some.transpose(0, 1).contiguous()  # [8, rows, N/8]
        transpose_nibbles(nibbles)
        for nibble, column in zip(nibbles, NIBBLE_COLUMNS, strict=True):
            out[..., column] = nibble
    return streams.flatten(1)
