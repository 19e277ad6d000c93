"""GPTQ's packing: codes of 2, 3, 4 or 8 bits in bit streams. Knows the layout, not the files.

Alphabet: N output features, K input features, G groups, b bits. GPTQ stores matrices as [K, N], weights here are
[N, K].
"""

from dataclasses import dataclass

import torch

from expertmesh.kernels.bitstream import pack_stream, unpack_stream
from expertmesh.kernels.formats import GPTQ_BITS, WORD_BITS, GptqFormat
from expertmesh.kernels.packed import count_groups, read_bias, read_order
from expertmesh.kernels.weights import Quantized, StoredWeight, describe


@dataclass(frozen=True)
class GptqTensors:
    """The tensors that GPTQ files hold.

    ``qweight`` [K * b / 32, N] int32, ``qzeros`` [G, N * b / 32] int32 (None = every zero point is 2**(b - 1)),
    ``scales`` [G, N], ``g_idx`` [K] int32 (the group of each input feature; None = k // group_size), ``bias`` [N] or
    None.
    """

    qweight: torch.Tensor
    qzeros: torch.Tensor | None
    scales: torch.Tensor
    g_idx: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def as_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that there are by the names they have in files."""
        return {part: tensor for part, tensor in vars(self).items() if tensor is not None}


def pack(weight: Quantized, is_v2: bool = False) -> GptqTensors:
    """Lay out codes as GPTQ does; ValueError when bits, N or K do not fit, or v1 should store a zero point of 0."""
    if weight.bits not in GPTQ_BITS:
        raise ValueError(f"GPTQ packs codes of 2, 3, 4 or 8 bits, these have {weight.bits}")
    if not is_v2 and not weight.zeros.all():
        raise ValueError("format v1 stores zero points minus one and cannot hold a zero point of 0; use v2")
    num_in = weight.shape[1]
    groups = torch.arange(num_in, dtype=torch.int32) // weight.group_size  # of the stored columns
    codes, g_idx = weight.codes, groups
    if weight.perm is not None:
        order = weight.perm.argsort()
        codes, g_idx = codes[:, order], groups[order]
    return GptqTensors(
        qweight=pack_stream(codes.T, weight.bits),
        qzeros=pack_stream(weight.zeros - (0 if is_v2 else 1), weight.bits).T.contiguous(),
        scales=weight.scales.T.contiguous(),
        g_idx=g_idx.contiguous(),
        bias=weight.bias,
    )


def read(tensors: GptqTensors, how: GptqFormat) -> StoredWeight:
    """Read GPTQ's layout; ValueError names the tensor that does not fit the others or the format.

    A zero point of 0 in format v1, which stores -1 there, is read as 0.
    """
    num_in, num_out = _check_qweight(tensors.qweight, how.bits)
    num_groups = count_groups(tensors.scales, num_in, num_out)
    group_size = num_in // num_groups
    perm = read_order(tensors.g_idx, num_in, group_size)
    scales = tensors.scales.T.contiguous()  # [N, G]
    return StoredWeight(
        words=tensors.qweight,
        scales=scales,
        zeros=_read_zeros(tensors.qzeros, scales, how),
        bits=how.bits,
        group_size=group_size,
        order=perm,
        perm=perm,
        bias=read_bias(tensors.bias, num_out),
    )


def _check_qweight(qweight: torch.Tensor, bits: int) -> tuple[int, int]:
    if qweight.dtype != torch.int32 or qweight.dim() != 2 or not qweight.numel():
        raise ValueError(f"qweight is {describe(qweight)}; int32 with two dimensions would be right")
    if len(qweight) * WORD_BITS % bits:
        raise ValueError(f"qweight has {len(qweight)} rows, which hold no whole number of {bits}-bit codes")
    return len(qweight) * WORD_BITS // bits, qweight.shape[1]


def _read_zeros(qzeros: torch.Tensor | None, scales: torch.Tensor, how: GptqFormat) -> torch.Tensor:
    """Return the zero points that belong to ``scales`` [N, G]."""
    num_out, num_groups = scales.shape
    middle = torch.full_like(scales, 2 ** (how.bits - 1), dtype=torch.uint8)
    if qzeros is None:
        if not how.is_symmetric:
            raise ValueError("qzeros is missing, and the configuration does not say sym: true")
        return middle
    expected = (num_groups, num_out * how.bits // WORD_BITS)
    if qzeros.dtype != torch.int32 or qzeros.shape != expected or num_out * how.bits % WORD_BITS:
        raise ValueError(f"qzeros is {describe(qzeros)}; int32 {list(expected)} would be right")
    stored = unpack_stream(qzeros.T, how.bits)  # [N, G]
    if not how.is_symmetric:
        return stored if how.is_v2 else stored + 1 & 2**how.bits - 1
    # Tools differ in whether they store z or z - 1; with sym there is only one z that either can mean.
    if not (stored.equal(middle) or stored.equal(middle - 1)):
        raise ValueError(
            f"qzeros are not all {2 ** (how.bits - 1)}, as sym: true would have it; is the file mislabelled?"
        )
    return middle
