"""AWQ's GEMM packing: 4-bit codes, eight to an int32, interleaved. Knows the layout, not the files.

Alphabet: N output features, K input features, G groups. AWQ stores matrices as [K, N]; weights here are [N, K].
"""

from dataclasses import dataclass

import torch

from expertmesh.kernels.formats import AWQ_BITS
from expertmesh.kernels.nibbles import CODES_PER_WORD, NIBBLE_COLUMNS
from expertmesh.kernels.packed import count_groups, read_bias
from expertmesh.kernels.weights import Quantized, StoredWeight, describe


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


def read(tensors: AwqTensors) -> StoredWeight:
    """Read AWQ's layout; ValueError names the tensor whose shape or dtype does not fit the others."""
    num_in, num_out, num_groups = _check(tensors)
    scales = tensors.scales.T.contiguous()  # [N, G]
    middle = torch.full_like(scales, 2 ** (AWQ_BITS - 1), dtype=torch.uint8)
    return StoredWeight(
        words=tensors.qweight,
        scales=scales,
        zeros=middle if tensors.qzeros is None else _unpack_zeros(tensors.qzeros),
        bits=AWQ_BITS,
        group_size=num_in // num_groups,
        is_awq=True,
        bias=read_bias(tensors.bias, num_out),
    )


def _pack_words(codes: torch.Tensor) -> torch.Tensor:
    words = codes.reshape(codes.shape[0], -1, CODES_PER_WORD).to(torch.int64)  # [rows, N/8, 8]
    packed = torch.zeros_like(words[..., 0])
    for nibble, column in enumerate(NIBBLE_COLUMNS):
        packed |= words[..., column] << AWQ_BITS * nibble
    # The top nibble reaches the sign bit: wrap around as int32 does.
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32).contiguous()


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
