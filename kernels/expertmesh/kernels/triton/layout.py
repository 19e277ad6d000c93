"""The GPU's layout of the matrices of several experts, made once at load. Knows storage, not arithmetic.

Alphabet: E experts, N output features, K input features, G groups, W words per output, P rows of a plane.

Codes lie in 16-bit words [E, W, N]. A span is what a block of P words holds: ``num_slots`` planes of P consecutive
input features each, slot i of word r being feature i * P + r of the span. So unpacking is a shift and a mask of a whole
tile, never an interleave; words of neighbouring outputs are neighbours in memory; and a register holds two words, of
which one instruction unpacks two values. A word holds 8, 5, 4 or 2 codes of 2, 3, 4 or 8 bits, so 3-bit codes take 3.2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch.nn.functional import pad

from expertmesh.kernels.formats import AWQ_BITS
from expertmesh.kernels.formats import WORD_BITS as STREAM_WORD_BITS
from expertmesh.kernels.nibbles import rows_at_once, transpose_nibbles
from expertmesh.kernels.pages import empty
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.weights import DenseWeight, Quantized, StoredWeight, Weight

STORED_BITS = (2, 3, 4, 8)
WORD_BITS = 16
PLANE_ROWS = (32, 16)  # the largest that divides the group size is taken


@dataclass(frozen=True)
class PackedMatrices:
    """Quantized matrices of E experts, all stored alike.

    ``words`` [E, W, N] int16, ``scales`` [E, G, N] floating point, ``zeros`` [E, G, N] uint8 or float32, ``order``
    [E, K] int32 (the input feature of each column) or None, ``bias`` [E, N] float32 or None. A group size of K means
    one group.
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


def lay_out(weights: Iterable[Weight], device: torch.device) -> Matrices:
    """Take over one matrix per expert; dense where the experts' storage differs or fits no packed layout."""
    return join([stage(weight, device) for weight in weights], device)


def stage(weight: Weight, device: torch.device) -> Matrices:
    """Lay out the matrix of one expert, E = 1: worked out on ``device``, kept where ``weight`` lies until it is joined.

    Unpacked codes take a byte each, the laid out ones their bits: staged one after the other, experts need less memory.
    """
    if not isinstance(weight, DenseWeight):
        plane_rows = _find_plane_rows(weight)
        if plane_rows:
            return _pack(weight, plane_rows, device)
        # bfloat16 as on the CPU: half the bytes of float32, and no scale is out of its range.
        weight = DenseWeight(dequantize(weight, torch.bfloat16), weight.bias)
    return DenseMatrices(weight.data.unsqueeze(0), _widen_bias(weight))


def join(parts: Sequence[Matrices], device: torch.device) -> Matrices:
    """Make the matrices of E experts on ``device`` from those of each, one copy after the other."""
    packed = [part for part in parts if isinstance(part, PackedMatrices)]
    forms = {(part.num_in, part.num_out, part.bits, part.group_size) for part in packed}
    if len(packed) == len(parts) and len(forms) == 1:
        return _join_packed(packed, device)
    return _join_dense([_as_dense(part) for part in parts], device)


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


def _pack(weight: Quantized, plane_rows: int, device: torch.device) -> PackedMatrices:
    bits = _container_bits(weight.bits)
    if isinstance(weight, StoredWeight) and weight.bits == AWQ_BITS and weight.order is None:
        words = _pack_streams(replace(weight, words=weight.words.to(device)).streams, plane_rows).to(
            weight.words.device
        )
    else:
        codes = weight.codes
        words = _pack_words(codes.to(device).T, bits, plane_rows).to(codes.device)
    return PackedMatrices(
        words=words.unsqueeze(0),
        scales=weight.scales.T.contiguous().unsqueeze(0),
        zeros=weight.zeros.T.contiguous().unsqueeze(0),
        order=None if weight.perm is None else weight.perm.int().unsqueeze(0),
        bias=_widen_bias(weight),
        bits=bits,
        group_size=weight.group_size,
        num_in=weight.shape[1],
        plane_rows=plane_rows,
    )


def _pack_words(codes: torch.Tensor, bits: int, plane_rows: int) -> torch.Tensor:
    """Pack ``codes`` [K, N] uint8 into words [W, N] int16, padding K to whole spans."""
    num_in, num_out = codes.shape
    padded = pad(codes, (0, 0, 0, -num_in % (num_slots(bits) * plane_rows)))
    planes = padded.reshape(-1, num_slots(bits), plane_rows, num_out)  # [spans, slots, P, N]
    words = torch.zeros_like(planes[:, 0], dtype=torch.int16)
    for slot in range(num_slots(bits)):
        words |= planes[:, slot].to(torch.int16) << slot * bits
    return words.flatten(0, 1)


def _pack_streams(streams: torch.Tensor, plane_rows: int) -> torch.Tensor:
    """Turn ``streams`` [K/8, N] int32 of 4-bit codes into words [W, N] int16, padding K to whole spans.

    Nothing is unpacked: the words of the four slots, eight features each, change nibbles among them.
    """
    slots, num_out = num_slots(AWQ_BITS), streams.shape[1]
    words_per_plane = plane_rows * AWQ_BITS // STREAM_WORD_BITS
    padded = pad(streams, (0, 0, 0, -len(streams) % (slots * words_per_plane)))
    spans = padded.reshape(-1, slots, words_per_plane, num_out)
    words = empty((len(spans), words_per_plane, 2, slots, num_out), like=streams.new_empty(0, dtype=torch.int16))
    step = rows_at_once(spans)
    for some, out in zip(spans.split(step), words.split(step), strict=True):
        planes = some.transpose(0, 1).contiguous()  # [slots, spans, P/8, N]
        transpose_nibbles(planes)
        # Feature j of each eight is now the lower half of word j, feature 4 + j the upper one.
        for half, shift in enumerate((0, WORD_BITS)):
            out[:, :, half] = (planes >> shift).permute(1, 2, 0, 3)
    return words.view(-1, num_out)


def _container_bits(bits: int) -> int:
    return next(stored for stored in STORED_BITS if stored >= bits)


def _find_plane_rows(weight: Quantized) -> int:
    """Rows of a plane that never cross a group, or 0 where there are none."""
    if weight.group_size == weight.shape[1]:
        return PLANE_ROWS[0]
    return next((rows for rows in PLANE_ROWS if weight.group_size % rows == 0), 0)


def _widen_bias(weight: Weight) -> torch.Tensor | None:
    return None if weight.bias is None else weight.bias.float().unsqueeze(0)


def _join_packed(parts: Sequence[PackedMatrices], device: torch.device) -> PackedMatrices:
    return replace(
        parts[0],
        words=_stack([part.words for part in parts], device),
        scales=_stack(_alike([part.scales for part in parts]), device),
        zeros=_stack(_alike([part.zeros for part in parts]), device),
        order=_stack_or([part.order for part in parts], torch.arange(parts[0].num_in, dtype=torch.int32), device),
        bias=_stack_or([part.bias for part in parts], torch.zeros(parts[0].num_out), device),
    )


def _join_dense(parts: Sequence[DenseMatrices], device: torch.device) -> DenseMatrices:
    dtype = reduce(torch.promote_types, [part.data.dtype for part in parts])
    data = _stack([part.data.to(dtype) for part in parts], device)
    return DenseMatrices(data, _stack_or([part.bias for part in parts], torch.zeros(parts[0].num_out), device))


def _as_dense(part: Matrices) -> DenseMatrices:
    if isinstance(part, DenseMatrices):
        return part
    values = unpack(part).to(torch.bfloat16)
    return DenseMatrices(values if part.order is None else values[:, :, part.order[0].argsort()], part.bias)


def _alike(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Make tensors of different dtypes float32, which holds what any of them does."""
    return tensors if len({tensor.dtype for tensor in tensors}) == 1 else [tensor.float() for tensor in tensors]


def _stack(tensors: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Copy tensors [1, ...] into one [E, ...]."""
    stacked = torch.empty(len(tensors), *tensors[0].shape[1:], dtype=tensors[0].dtype, device=device)
    for expert, tensor in enumerate(tensors):
        stacked[expert] = tensor[0]
    return stacked


def _stack_or(
    tensors: Sequence[torch.Tensor | None], default: torch.Tensor, device: torch.device
) -> torch.Tensor | None:
    """Do the same with ``default`` [...] for those that are None; None where all are."""
    if all(tensor is None for tensor in tensors):
        return None
    return _stack([default.unsqueeze(0) if tensor is None else tensor for tensor in tensors], device)
