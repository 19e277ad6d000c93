"""The weights of a checkpoint directory. Knows formats, not what a model does.

Tensors are asked for as the table of the model's architecture describes them, whatever the files call them.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import torch

from expertmesh.architectures.dialects import Location, Part
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.codes import FourBitConfig, Kind
from expertmesh.checkpoint.contents import Contents
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.checkpoint.headers import check_plain
from expertmesh.checkpoint.rotary import halves_from_pairs, rows_in_halves
from expertmesh.checkpoint.unpacking import unpack
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


class Checkpoint(Contents):
    """A checkpoint of a supported architecture; tensors are read when they are asked for."""

    _device = torch.device("cpu")

    def on(self, device: torch.device) -> "Checkpoint":
        """Return this checkpoint with tensors that come to ``device`` as files hold them, and are unpacked there."""
        moved = copy(self)
        moved._device = device
        return moved

    def tensor(self, spec: TensorSpec) -> torch.Tensor:
        """Read plain values, or what codes mean: few quantizers take gates and embeddings, of which these are wanted.

        CheckpointError when they have another shape, their dtype is not supported, or those of an embedding, norm, gate
        or head are not finite. Large matrices are not tested: what they produce is, and tells which it was.
        """
        location = self.locate(spec)
        tensor = self._values(location, spec) if self.is_packed(location) else self._plain(location, spec)
        if not spec.is_quantizable and not is_finite(tensor):
            file = self.files.entry(location.name).file
            raise CheckpointError(f"{file}: {location.name} holds NaN or Inf; {BROKEN}")
        return halves_from_pairs(tensor, self.model.head_dim) if location.has_rotary_pairs else tensor

    def weight(self, spec: TensorSpec) -> Weight:
        """Read a matrix, quantized where its file holds codes.

        CheckpointError when a tensor is missing or of another shape or dtype, or a scale is not finite.
        """
        location = self.locate(spec)
        if self.is_packed(location):
            return self._packed(location, spec)
        entry = self.files.entry(location.name)
        if entry.dtype in GGML_BLOCKS:
            weight = self._read_blocks(location, entry)
            if location.has_rotary_pairs:
                weight = weight.take_outputs(rows_in_halves(weight.shape[0], self.model.head_dim))
            return replace(weight, bias=self._bias(location, spec))
        plain = DenseWeight(self.tensor(spec), self._bias(location, spec))
        return self._round(spec, plain) if self.round_to_bits and spec.is_quantizable else plain

    def expert(self, layer: int, expert: int) -> ExpertWeights:
        """Read one expert; the only FFN of a dense model is expert 0. Errors as ``weight``."""
        specs = self.tensors.expert(layer, expert)
        return ExpertWeights(
            w_gate=self.weight(specs["w_gate"]),
            w_up=self.weight(specs["w_up"]),
            w_down=self.weight(specs["w_down"]),
        )

    def stored(self, spec: TensorSpec) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors of a matrix or vector as a file would hold them under HF's name: codes stay packed.

        CheckpointError as ``weight``; packed tensors are unpacked too, to be sure of what is copied.
        """
        location = self.locate(spec)
        if self.is_packed(location):
            kind = self.kind_of(location, spec)
            parts = self._read_packed(location, kind)
            self._unpack(location, parts, spec, kind)
            yield from ((f"{spec.name}.{part}", tensor) for part, tensor in parts.items())
            return
        yield f"{spec.name}.weight", self.tensor(spec)
        bias = self._bias(location, spec)
        if bias is not None:
            yield f"{spec.name}.bias", bias

    def _plain(self, location: Location, spec: TensorSpec) -> torch.Tensor:
        entry = self.files.entry(location.name)
        check_plain(location, entry, spec)
        if entry.dtype in GGML_BLOCKS:
            tensor = dequantize(self._read_blocks(location, entry))
        else:
            tensor = self._read(location.name, location.part)
        return tensor.T.contiguous() if location.is_transposed else tensor

    def _packed(self, location: Location, spec: TensorSpec) -> Weight:
        kind = self.kind_of(location, spec)
        return self._unpack(location, self._read_packed(location, kind), spec, kind)

    def _values(self, location: Location, spec: TensorSpec) -> torch.Tensor:
        """Return what the codes of a matrix mean; CheckpointError when it has a bias, which would be lost."""
        weight = self._packed(location, spec)
        if weight.bias is not None:
            raise CheckpointError(f"{self.directory}: {location.prefix}.bias is not zero; no such matrix has one")
        return weight.data if isinstance(weight, DenseWeight) else dequantize(weight)

    def _read(self, name: str, part: Part = ()) -> torch.Tensor:
        return self.files.read(name, part).to(self._device)

    def _round(self, spec: TensorSpec, plain: DenseWeight) -> QuantizedWeight:
        group_size = next((size for size in ROUND_GROUP_SIZES if plain.shape[1] % size == 0), plain.shape[1])
        try:
            rounded = round_to_nearest(plain.data, self.round_to_bits or 0, group_size)
        except ValueError as error:
            raise CheckpointError(f"{self.directory}: {spec.name}: {error}") from error
        return replace(rounded, bias=plain.bias)

    def _bias(self, location: Location, spec: TensorSpec) -> torch.Tensor | None:
        name, num_out = f"{location.prefix}.bias", spec.shape[0]
        if name not in self.files:
            return None
        bias = self._read(name)
        if bias.shape != (num_out,) or bias.dtype not in DENSE_DTYPES:
            entry = self.files.entry(name)
            raise CheckpointError(
                f"{entry.file}: {name} is {entry.dtype} {list(entry.shape)}; floating point [{num_out}] would be right"
            )
        return halves_from_pairs(bias[:, None], self.model.head_dim)[:, 0] if location.has_rotary_pairs else bias

    def _read_blocks(self, location: Location, entry: TensorEntry) -> QuantizedWeight:
        """Read a matrix whose values lie in ggml's blocks; CheckpointError when its scales are not finite."""
        weight = ggml.unpack(self._read(location.name, location.part), entry.dtype)
        if not (is_finite(weight.scales) and is_finite(weight.zeros)):
            raise CheckpointError(f"{entry.file}: the scales of {location.name} hold NaN or Inf; {BROKEN}")
        return weight

    def _read_packed(self, location: Location, kind: Kind) -> dict[str, torch.Tensor]:
        """Read the tensors of a packed matrix by their parts; CheckpointError when one is missing."""
        return {part: self._read(name) for part, name in self.packed_names(location, kind).items()}

    def _unpack(self, location: Location, parts: dict[str, torch.Tensor], spec: TensorSpec, kind: Kind) -> Weight:
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
