"""The weights of a checkpoint directory. Knows formats, not what a model does.

Tensors are asked for as the table of the model's architecture describes them, whatever the files call them.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from copy import copy
from dataclasses import replace

import torch

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.codes import FourBitConfig, Kind
from expertmesh.checkpoint.contents import Contents
from expertmesh.checkpoint.entry import Room
from expertmesh.checkpoint.headers import check_plain
from expertmesh.checkpoint.layouts import WEIGHT
from expertmesh.checkpoint.read_ahead import Slot, read_ahead
from expertmesh.checkpoint.rotary import halves_from_pairs, rows_in_halves
from expertmesh.checkpoint.unpacking import Parts, unpack
from expertmesh.errors import CheckpointError
from expertmesh.kernels import ggml
from expertmesh.kernels.finite import is_finite
from expertmesh.kernels.formats import GGML_BLOCKS
from expertmesh.kernels.quantize import dequantize, round_to_nearest
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

DENSE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Groups of 128 inputs share a scale; narrower matrices of small models take what divides them.
ROUND_GROUP_SIZES = (128, 64, 32)
BROKEN = "the file is broken, download or quantize it again"
BIAS = "bias"


def _no_room(part: str) -> Room | None:
    return None


class Checkpoint(Contents):
    """A checkpoint of a supported architecture; tensors are read when they are asked for."""

    _device = torch.device("cpu")
    _is_staged = False

    def on(self, device: torch.device, is_staged: bool | None = None) -> "Checkpoint":
        """Return this checkpoint with tensors that come to ``device`` as files hold them, and are laid out there.

        Where ``is_staged``, by default on GPUs, ``experts`` come by way of memory that is used again.
        """
        moved = copy(self)
        moved._device = device
        moved._is_staged = device.type == "cuda" if is_staged is None else is_staged
        return moved

    def tensor(self, spec: TensorSpec) -> torch.Tensor:
        """Read plain values, or what codes mean: few quantizers take gates and embeddings, of which these are wanted.

        CheckpointError when they have another shape, their dtype is not supported, or those of an embedding, norm, gate
        or head are not finite. Large matrices are not tested: what they produce is, and tells which it was.
        """
        location = self.locate(spec)
        values = self._meaning(location, spec) if self.is_packed(location) else self._plain(location, spec)
        return self._order_values(location, spec, values)

    def weight(self, spec: TensorSpec) -> Weight:
        """Read a matrix, quantized where its file holds codes.

        CheckpointError when a tensor is missing or of another shape or dtype, or a scale is not finite.
        """
        return self._make(spec, self._bring(self._read(spec)))

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Read one expert; the only FFN of a dense model is expert 0. Errors as ``weight``."""
        return ExpertWeights(*map(self.weight, self._matrices_of(layer, expert)))

    def experts(self, wanted: Iterable[tuple[int, int]]) -> Generator[ExpertWeights, None, None]:
        """Read experts, (layer, expert) each, one after the other. Errors as ``weight``.

        A second thread reads the next matrix meanwhile, which takes the memory of two of them as files hold them. It
        ends with the generator: close it where not all may be taken.
        """
        slots = (Slot(self._device), Slot(self._device)) if self._is_staged else None

        def read(spec: TensorSpec, turn: int) -> Parts:
            return self._read(spec, slots[turn].room if slots else _no_room)

        specs = (spec for one in wanted for spec in self._matrices_of(*one))
        with closing(read_ahead(read, specs)) as read_parts:
            weights = (self._make(spec, self._bring(parts, self._is_staged)) for spec, parts in read_parts)
            # A loop would hold the weights of one expert while the next are read.
            yield from map(ExpertWeights, weights, weights, weights)

    def stored(self, spec: TensorSpec, tries_codes: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of a matrix or vector as a file would hold them under HF's name: codes stay packed.

        CheckpointError as ``weight``; where it ``tries_codes`` packed tensors are made a matrix of, too, to be sure of
        what is copied.
        """
        location = self.locate(spec)
        if self.is_packed(location):
            parts = self._bring(self._read(spec))
            if tries_codes:
                self._make(spec, parts)
            yield from ((f"{spec.name}.{part}", tensor) for part, tensor in parts.items())
            return
        yield f"{spec.name}.{WEIGHT}", self.tensor(spec)
        if f"{location.prefix}.{BIAS}" in self.files:
            yield f"{spec.name}.{BIAS}", self._order_bias(location, spec, self._read_bias(location).to(self._device))

    def _plain(self, location: Location, spec: TensorSpec) -> torch.Tensor:
        values = self._read_values(location, spec).to(self._device)
        return dequantize(self._unpack_blocks(location, values)) if self._has_blocks(location) else values

    def _meaning(self, location: Location, spec: TensorSpec) -> torch.Tensor:
        """Return what the codes of a matrix mean; CheckpointError when it has a bias, which would be lost."""
        weight = self._unpack(location, spec, self._bring(self._read(spec)))
        if weight.bias is not None:
            raise CheckpointError(f"{self.directory}: {location.prefix}.bias is not zero; no such matrix has one")
        return weight.data if isinstance(weight, DenseWeight) else dequantize(weight)

    def _has_blocks(self, location: Location) -> bool:
        return self.files.entry(location.name).dtype in GGML_BLOCKS

    def _matrices_of(self, layer: int, expert: int) -> tuple[TensorSpec, TensorSpec, TensorSpec]:
        specs = self.tensors.expert(layer, expert)
        return specs["w_gate"], specs["w_up"], specs["w_down"]

    def _read(self, spec: TensorSpec, room_of: Callable[[str], Room | None] = _no_room) -> Parts:
        """Read the tensors of a matrix, each into the room for its part, or mapped."""
        location = self.locate(spec)
        if self.is_packed(location):
            names = self.packed_names(location, self.kind_of(location, spec))
            return {part: self.files.read(name, (), room_of(part)) for part, name in names.items()}
        parts = {WEIGHT: self._read_values(location, spec, room_of(WEIGHT))}
        if f"{location.prefix}.{BIAS}" in self.files:
            parts[BIAS] = self._read_bias(location, room_of(BIAS))
        return parts

    def _read_values(self, location: Location, spec: TensorSpec, room: Room | None = None) -> torch.Tensor:
        check_plain(location, self.files.entry(location.name), spec)
        return self.files.read(location.name, location.part, room)

    def _read_bias(self, location: Location, room: Room | None = None) -> torch.Tensor:
        return self.files.read(f"{location.prefix}.{BIAS}", (), room)

    def _bring(self, parts: Parts, is_lent: bool = False) -> Parts:
        """Take tensors to the device; ``is_lent`` ones lie in memory that is used again."""
        return {part: tensor.to(self._device, copy=is_lent) for part, tensor in parts.items()}

    def _make(self, spec: TensorSpec, parts: Parts) -> Weight:
        """Make a matrix of its tensors on the device."""
        location = self.locate(spec)
        if self.is_packed(location):
            return self._unpack(location, spec, parts)
        bias = self._order_bias(location, spec, parts[BIAS]) if BIAS in parts else None
        if self._has_blocks(location):
            blocks = self._unpack_blocks(location, parts[WEIGHT])
            if location.has_rotary_pairs:
                blocks = blocks.take_outputs(rows_in_halves(blocks.shape[0], self.model.head_dim))
            return replace(blocks, bias=bias)
        plain = DenseWeight(self._order_values(location, spec, parts[WEIGHT]), bias)
        return self._round(spec, plain) if self.round_to_bits and spec.is_quantizable else plain

    def _order_values(self, location: Location, spec: TensorSpec, values: torch.Tensor) -> torch.Tensor:
        """Turn plain values over and pair them as ``spec`` has them, and test those of small tensors."""
        if location.is_transposed:
            values = values.T.contiguous()
        if not spec.is_quantizable and not is_finite(values):
            raise CheckpointError(f"{self.files.entry(location.name).file}: {location.name} holds NaN or Inf; {BROKEN}")
        return halves_from_pairs(values, self.model.head_dim) if location.has_rotary_pairs else values

    def _round(self, spec: TensorSpec, plain: DenseWeight) -> QuantizedWeight:
        group_size = next((size for size in ROUND_GROUP_SIZES if plain.shape[1] % size == 0), plain.shape[1])
        try:
            rounded = round_to_nearest(plain.data, self.round_to_bits or 0, group_size)
        except ValueError as error:
            raise CheckpointError(f"{self.directory}: {spec.name}: {error}") from error
        return replace(rounded, bias=plain.bias)

    def _order_bias(self, location: Location, spec: TensorSpec, bias: torch.Tensor) -> torch.Tensor:
        """Check a bias, and pair its values as those of the matrix."""
        num_out = spec.shape[0]
        if bias.shape != (num_out,) or bias.dtype not in DENSE_DTYPES:
            name = f"{location.prefix}.{BIAS}"
            entry = self.files.entry(name)
            raise CheckpointError(
                f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; floating point [{num_out}] would be right"
            )
        return halves_from_pairs(bias[:, None], self.model.head_dim)[:, 0] if location.has_rotary_pairs else bias

    def _unpack_blocks(self, location: Location, data: torch.Tensor) -> QuantizedWeight:
        """Make a matrix of ggml's blocks, bytes; CheckpointError when its scales are not finite."""
        entry = self.files.entry(location.name)
        weight = ggml.unpack(data, entry.dtype)
        if not (is_finite(weight.scales) and is_finite(weight.zeros)):
            raise CheckpointError(f"{entry.file}: the scales of {location.name} hold NaN or Inf; {BROKEN}")
        return weight

    def _unpack(self, location: Location, spec: TensorSpec, parts: Parts) -> Weight:
        """Make a matrix of its packed tensors."""
        kind = self.kind_of(location, spec)
        where = f"{self.files.entry(f'{location.prefix}.{kind.layout.codes}').file}: {location.prefix}"
        num_out, num_in = spec.shape
        try:
            weight = unpack(parts, kind, (num_out, num_in), getattr(torch, self.unpacked_dtype))
        except ValueError as error:
            raise CheckpointError(f"{where}: {error}") from error
        _check_unpacked(where, weight, spec, kind)
        scales = parts[kind.layout.scales]
        if scales.is_floating_point() and not scales.isfinite().all():
            raise CheckpointError(f"{where}.{kind.layout.scales} holds NaN or Inf; {BROKEN}")
        return weight


def _check_unpacked(where: str, weight: Weight, spec: TensorSpec, kind: Kind) -> None:
    if weight.shape != spec.shape:
        raise CheckpointError(f"{where} is {list(weight.shape)} (outputs, inputs); {list(spec.shape)} would be right")
    if isinstance(weight, DenseWeight) or isinstance(kind, FourBitConfig):
        return
    expected = kind.group_size if kind.group_size > 0 else spec.shape[1]
    if weight.group_size != expected:
        raise CheckpointError(f"{where} has groups of {weight.group_size}; the configuration says {expected}")
