"""The GPU's layout of the matrices of several experts, made once at load. Knows storage, not arithmetic.

Alphabet: E experts, N output features, K input features, G groups, W words per output, P rows of a plane.

Codes lie in 16-bit words [E, W, N]. A span is what a block of P words holds: ``num_slots`` planes of P consecutive
input features each, slot i of word r being feature i * P + r of the span. So unpacking is a shift and a mask of a whole
tile, never an interleave; words of neighbouring outputs are neighbours in memory; and a register holds two words, of
which one instruction unpacks two values. A word holds 8, 5, 4 or 2 codes of 2, 3, 4 or 8 bits, so 3-bit codes take 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, Weight

STORED_BITS = (2, 3, 4, 8)
WORD_BITS = 16
PLANE_ROWS = (32, 16)  # the largest that divides the group size is taken


@dataclass(frozen=True)
class PackedMatrices:
    """Quantized matrices of E experts, all stored alike.

    ``words`` [E, W, N] int16, ``scales`` [E, G, N] floating point, ``zeros`` [E, G, N] uint8, ``order`` [E, K] int32
    (the input feature of each column) or None, ``bias`` [E, N] float32 or None. A group size of K means one group.
    """

    words: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    order: torch.Tensor | None
    bias: torch.Tensor | None
    bits: int
    group_size: int
    num_in: int
    plane_rows: int

    @property
    def num_out(self) -> int:
        """Output features N."""
        return self.words.shape[2]

    @property
    def num_bytes(self) -> int:
        """Bytes of everything stored."""
        tensors = (self.words, self.scales, self.zeros, self.order, self.bias)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@dataclass(frozen=True)
class DenseMatrices:
    """Matrices of E experts as they are: ``data`` [E, N, K] floating point, ``bias`` [E, N] float32 or None."""

    data: torch.Tensor
    bias: torch.Tensor | None

    @property
    def num_out(self) -> int:
        """Output features N."""
        return self.data.shape[1]

    @property
    def num_in(self) -> int:
        """Input features K."""
        return self.data.shape[2]

    @property
    def num_bytes(self) -> int:
        """Bytes of everything stored."""
        return self.data.nbytes + (0 if self.bias is None else self.bias.nbytes)


Matrices = PackedMatrices | DenseMatrices


def num_slots(bits: int) -> int:
    """Planes per span: how many codes of ``bits`` bits a word holds."""
    return WORD_BITS // bits


def lay_out(weights: Sequence[Weight], device: torch.device) -> Matrices:
    """Take over one matrix per expert; dense where the experts' storage differs or fits no packed layout."""
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if len(quantized) == len(weights) and _are_alike(quantized) and _find_plane_rows(quantized[0]):
        return _pack(quantized, device)
    return _stack_dense([_as_dense(weight) for weight in weights], device)


def unpack(matrices: PackedMatrices) -> torch.Tensor:
    """Return the values [E, N, K] in float32, columns as stored: the torch twin of what kernels do per tile."""
    num_experts, _, num_out = matrices.words.shape
    spans = matrices.words.view(num_experts, -1, matrices.plane_rows, num_out)  # [E, spans, P, N]
    slots = range(num_slots(matrices.bits))
    codes = torch.stack([spans >> slot * matrices.bits & 2**matrices.bits - 1 for slot in slots], dim=2)
    codes = codes.reshape(num_experts, -1, num_out)[:, : matrices.num_in]  # [E, K, N]
    group = torch.arange(matrices.num_in, device=codes.device) // matrices.group_size
    values = (codes.float() - matrices.zeros[:, group].float()) * matrices.scales[:, group].float()
    return values.transpose(1, 2).contiguous()


def _pack(weights: Sequence[QuantizedWeight], device: torch.device) -> PackedMatrices:
    first = weights[0]
    bits = _container_bits(first.bits)
    plane_rows = _find_plane_rows(first)
    wide = len({weight.scales.dtype for weight in weights}) > 1
    return PackedMatrices(
        words=torch.stack([_pack_words(weight.codes.to(device).T, bits, plane_rows) for weight in weights]),
        scales=torch.stack([(w.scales.float() if wide else w.scales).T.contiguous() for w in weights]).to(device),
        zeros=torch.stack([weight.zeros.T.contiguous() for weight in weights]).to(device),
        order=_stack_orders(weights, device),
        bias=_stack_biases(weights, device),
        bits=bits,
        group_size=first.group_size,
        num_in=first.shape[1],
        plane_rows=plane_rows,
    )


def _pack_words(codes: torch.Tensor, bits: int, plane_rows: int) -> torch.Tensor:
    """Pack ``codes`` [K, N] uint8 into words [W, N] int16, padding K to whole spans."""
    num_in, num_out = codes.shape
    padded = torch.nn.functional.pad(codes, (0, 0, 0, -num_in % (num_slots(bits) * plane_rows)))
    planes = padded.reshape(-1, num_slots(bits), plane_rows, num_out)  # [spans, slots, P, N]
    words = torch.zeros_like(planes[:, 0], dtype=torch.int16)
    for slot in range(num_slots(bits)):
        words |= planes[:, slot].to(torch.int16) << slot * bits
    return words.flatten(0, 1)


def _container_bits(bits: int) -> int:
    return next(stored for stored in STORED_BITS if stored >= bits)


def _find_plane_rows(weight: QuantizedWeight) -> int:
    """Rows of a plane that never cross a group, or 0 where there are none."""
    if weight.group_size == weight.shape[1]:
        return PLANE_ROWS[0]
    return next((rows for rows in PLANE_ROWS if weight.group_size % rows == 0), 0)


def _are_alike(weights: Sequence[QuantizedWeight]) -> bool:
    return len({(weight.shape, _container_bits(weight.bits), weight.group_size) for weight in weights}) == 1


def _as_dense(weight: Weight) -> DenseWeight:
    # bfloat16 as on the CPU: half the bytes of float32, and no scale is out of its range.
    return weight if isinstance(weight, DenseWeight) else DenseWeight(dequantize(weight, torch.bfloat16), weight.bias)


def _stack_dense(weights: Sequence[DenseWeight], device: torch.device) -> DenseMatrices:
    dtype = weights[0].data.dtype
    for weight in weights:
        dtype = torch.promote_types(dtype, weight.data.dtype)
    data = torch.stack([weight.data.to(device=device, dtype=dtype) for weight in weights])
    return DenseMatrices(data, _stack_biases(weights, device))


def _stack_orders(weights: Sequence[QuantizedWeight], device: torch.device) -> torch.Tensor | None:
    if all(weight.perm is None for weight in weights):
        return None
    natural = torch.arange(weights[0].shape[1])
    orders = [natural if weight.perm is None else weight.perm for weight in weights]
    return torch.stack([order.int().to(device) for order in orders])


def _stack_biases(weights: Sequence[Weight], device: torch.device) -> torch.Tensor | None:
    if all(weight.bias is None for weight in weights):
        return None
    biases = [torch.zeros(w.shape[0]) if w.bias is None else w.bias for w in weights]
    return torch.stack([bias.float().to(device) for bias in biases])
