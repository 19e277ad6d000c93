"""The "pack-quantized" layout of compressed-tensors: codes in bit streams along the inputs. Knows no files.

Alphabet: N output features, K input features, G groups, b bits. Matrices are [N, K] there as they are here.
"""

from dataclasses import dataclass

import torch

from expertmesh.kernels.bitstream import pack_stream, unpack_stream
from expertmesh.kernels.formats import PACK_QUANTIZED_BITS, WORD_BITS
from expertmesh.kernels.packed import read_bias, read_order
from expertmesh.kernels.weights import Quantized, StoredWeight, describe


@dataclass(frozen=True)
class PackQuantizedTensors:
    """The tensors that files hold.

    ``weight_packed`` [N, K * b / 32] int32, ``weight_scale`` [N, G], ``weight_zero_point`` [N * b / 32, G] int32
    (None = every zero point is 2**(b - 1)), ``weight_g_idx`` [K] int32 (the group of each input feature; None =
    k // group_size), ``weight_shape`` [2], which is (N, K), or None, ``bias`` [N] or None.

    Their tool counts codes and zero points from -2**(b - 1) and adds 2**(b - 1) when it packs them: what is packed are
    codes and zero points as they are here.
    """

    weight_packed: torch.Tensor
    weight_scale: torch.Tensor
    weight_zero_point: torch.Tensor | None = None
    weight_g_idx: torch.Tensor | None = None
    weight_shape: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    def as_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that there are by the names they have in files."""
        return {part: tensor for part, tensor in vars(self).items() if tensor is not None}


def read(tensors: PackQuantizedTensors, bits: int) -> StoredWeight:
    """Read the layout; ValueError names the tensor that does not fit the others."""
    num_out, num_in = _check_codes(tensors.weight_packed, tensors.weight_shape, bits)
    num_groups = _count_groups(tensors.weight_scale, num_out, num_in)
    group_size = num_in // num_groups
    perm = read_order(tensors.weight_g_idx, num_in, group_size)
    return StoredWeight(
        words=tensors.weight_packed.T,
        scales=tensors.weight_scale.contiguous(),
        zeros=_read_zeros(tensors.weight_zero_point, tensors.weight_scale, bits),
        bits=bits,
        group_size=group_size,
        order=perm,
        perm=perm,
        bias=read_bias(tensors.bias, num_out),
    )


def pack(weight: Quantized, is_symmetric: bool) -> PackQuantizedTensors:
    """Lay out codes; zero points are left out where ``is_symmetric``. ValueError when bits, N or K do not fit."""
    if weight.bits not in PACK_QUANTIZED_BITS:
        raise ValueError(f"codes of 4 or 8 bits can be packed, these have {weight.bits}")
    codes, g_idx = weight.codes, None
    if weight.perm is not None:
        order = weight.perm.argsort()
        codes, g_idx = codes[:, order], (order // weight.group_size).int()
    return PackQuantizedTensors(
        weight_packed=pack_stream(codes.T, weight.bits).T.contiguous(),
        weight_scale=weight.scales,
        weight_zero_point=None if is_symmetric else pack_stream(weight.zeros, weight.bits),
        weight_g_idx=g_idx,
        weight_shape=torch.tensor(weight.shape),
        bias=weight.bias,
    )


def _check_codes(packed: torch.Tensor, shape: torch.Tensor | None, bits: int) -> tuple[int, int]:
    """Return N and K."""
    if packed.dtype != torch.int32 or packed.dim() != 2 or not packed.numel():
        raise ValueError(f"weight_packed is {describe(packed)}; int32 with two dimensions would be right")
    found = len(packed), packed.shape[1] * WORD_BITS // bits
    if shape is not None and shape.tolist() != list(found):
        raise ValueError(f"weight_shape says {shape.tolist()}; the codes of weight_packed are {list(found)}")
    return found


def _count_groups(scales: torch.Tensor, num_out: int, num_in: int) -> int:
    if scales.dim() != 2 or len(scales) != num_out or not scales.is_floating_point():
        raise ValueError(f"weight_scale is {describe(scales)}; floating point [{num_out}, groups] would be right")
    num_groups = scales.shape[1]
    if not num_groups or num_in % num_groups:
        raise ValueError(f"weight_scale has {num_groups} groups, which do not divide {num_in} input features")
    return num_groups


def _read_zeros(stored: torch.Tensor | None, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the zero points that belong to ``scales`` [N, G]."""
    if stored is None:
        return torch.full_like(scales, 2 ** (bits - 1), dtype=torch.uint8)
    num_out, num_groups = scales.shape
    expected = (num_out * bits // WORD_BITS, num_groups)
    if stored.dtype != torch.int32 or stored.shape != expected or num_out * bits % WORD_BITS:
        raise ValueError(f"weight_zero_point is {describe(stored)}; int32 {list(expected)} would be right")
    return unpack_stream(stored, bits)
