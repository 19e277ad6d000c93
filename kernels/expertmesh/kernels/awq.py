"""AWQ's GEMM packing: 4-bit codes, eight to an int32, interleaved. Knows the layout, not the files.

Alphabet: N output features, K input features, G groups. AWQ stores matrices as [K, N]; weights here are [N, K].
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from expertmesh.kernels.bitstream import rows_at_once, transpose_nibbles
from expertmesh.kernels.formats import AWQ_BITS
from expertmesh.kernels.packed import count_groups, read_bias
from expertmesh.kernels.pages import empty
from expertmesh.kernels.weights import Quantized, StreamWeight, describe

CODES_PER_WORD = 8
# Nibble i of a word holds the column 8c + NIBBLE_COLUMNS[i].
NIBBLE_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class AwqTensors:
    """The tensors that AWQ files hold.

    ``qweight`` [K, N/8] int32, ``qzeros`` [G, N/8] int32 (None = every zero point is 8), ``scales`` [G, N],
    ``bias`` [N] or None.
    """

    qweight: torch.Tensor
    qzeros: torch.Tensor | None
    scales: torch.Tensor
    bias: torch.Tensor | None = None

    def as_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that there are by the names they have in files."""
        return {part: tensor for part, tensor in vars(self).items() if tensor is not None}


def pack(weight: Quantized) -> AwqTensors:
    """Lay out 4-bit codes as AWQ does; ValueError when the width or N does not fit the layout."""
    if weight.bits != AWQ_BITS:
        raise ValueError(f"AWQ packs {AWQ_BITS}-bit codes, these have {weight.bits} bits")
    if weight.shape[0] % CODES_PER_WORD:
        raise ValueError(f"AWQ packs output features by {CODES_PER_WORD}, {weight.shape[0]} is no multiple")
    return AwqTensors(
        qweight=_pack_words(weight.codes.T),
        qzeros=_pack_words(weight.zeros.T),
        scales=weight.scales.T.contiguous(),
        bias=weight.bias,
    )


def read(tensors: AwqTensors) -> StreamWeight:
    """Read AWQ's layout; ValueError names the tensor whose shape or dtype does not fit the others."""
    num_in, num_out, num_groups = _check(tensors)
    scales = tensors.scales.T.contiguous()  # [N, G]
    middle = torch.full_like(scales, 2 ** (AWQ_BITS - 1), dtype=torch.uint8)
    return StreamWeight(
        words=_to_streams(tensors.qweight),
        scales=scales,
        zeros=middle if tensors.qzeros is None else _unpack_zeros(tensors.qzeros),
        bits=AWQ_BITS,
        group_size=num_in // num_groups,
        bias=read_bias(tensors.bias, num_out),
    )


def _pack_words(codes: torch.Tensor) -> torch.Tensor:
    words = codes.reshape(codes.shape[0], -1, CODES_PER_WORD).to(torch.int64)  # [rows, N/8, 8]
    packed = torch.zeros_like(words[..., 0])
    for nibble, column in enumerate(NIBBLE_COLUMNS):
        packed |= words[..., column] << AWQ_BITS * nibble
    # The top nibble reaches the sign bit: wrap around as int32 does.
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32).contiguous()


def _to_streams(words: torch.Tensor) -> torch.Tensor:
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


def _unpack_zeros(words: torch.Tensor) -> torch.Tensor:
    """Unpack int32 ``words`` [G, N/8] into uint8 [N, G]."""
    shifts = torch.tensor(NIBBLE_COLUMNS, device=words.device).argsort().int() * AWQ_BITS  # of each column
    return (words.T[:, None] >> shifts[:, None] & 0xF).to(torch.uint8).flatten(0, 1)  # [N/8, 8, G]


def _check(tensors: AwqTensors) -> tuple[int, int, int]:
    """Return K, N and G."""
    qweight, qzeros = tensors.qweight, tensors.qzeros
    if qweight.dtype != torch.int32 or qweight.dim() != 2 or not qweight.numel():
        raise ValueError(f"qweight is {describe(qweight)}; int32 with two dimensions would be right")
    num_in, num_words = qweight.shape
    num_out = num_words * CODES_PER_WORD
    num_groups = count_groups(tensors.scales, num_in, num_out)
    if qzeros is not None and (qzeros.dtype != torch.int32 or qzeros.shape != (num_groups, num_words)):
        raise ValueError(f"qzeros is {describe(qzeros)}; int32 {[num_groups, num_words]} would be right")
    return num_in, num_out, num_groups
