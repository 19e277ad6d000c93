"""What a checkpoint directory holds, as far as its configuration and the headers of its files tell. Needs no torch.

All that can be known before a weight is read is checked here, the same for whoever opens a checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import architecture_of, tensors_of
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.codes import Kind, QuantizationConfig, kinds_of
from expertmesh.checkpoint.configuration import read_configuration
from expertmesh.checkpoint.headers import check_plain, find_problem
from expertmesh.checkpoint.layouts import LAYOUTS, MARKS
from expertmesh.checkpoint.quantization import read_quantization
from expertmesh.checkpoint.tensors import TensorFiles
from expertmesh.errors import CheckpointError
from expertmesh.kernels.formats import GGML_BLOCKS

# What values that are unpacked can be rounded to, and how many bytes one takes then.
VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class Contents:
    """The contents of a directory of a supported architecture.

    ``config`` is config.json as it was read, ``model`` what it says; ``tensors`` are those that the model has.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        model: ModelConfig,
        quantization: QuantizationConfig | None,
        files: TensorFiles,
        round_to_bits: int | None = None,
    ) -> None:
        self.directory = directory
        self.config = config
        self.model = model
        self.tensors = tensors_of(model)
        self.quantization = quantization
        self.files = files
        self.round_to_bits = round_to_bits
        self._dialect = architecture_of(model).recognize(files.names)

    @classmethod
    def open(cls, directory: Path, round_to_bits: int | None = None) -> Self:
        """Read the configuration and the headers of the weight files, and check that they fit.

        Plain matrices are rounded to ``round_to_bits`` as they are read, except where quantizers leave them plain too.
        CheckpointError names what is missing, damaged, of another shape or not supported, or quantized already.
        """
        configuration = read_configuration(directory)
        quantization = configuration.quantization or read_quantization(directory, configuration.values)
        if quantization and round_to_bits:
            raise CheckpointError(f"{directory} is {quantization} already and cannot be quantized while loading")
        files = TensorFiles.open(directory)
        opened = cls(directory, configuration.values, configuration.model, quantization, files, round_to_bits)
        for spec in opened.tensors:
            opened._check(spec)
        return opened

    @property
    def weight_format(self) -> str:
        """Storage of the expert weights, for people: "awq 4-bit g128", "bfloat16"."""
        if self.quantization:
            is_unpacked = any(kind.is_unpacked for kind in kinds_of(self.quantization))
            return f"{self.quantization}" + (f", unpacked to {self.unpacked_dtype}" if is_unpacked else "")
        plain = self._dtype or "float32"
        return f"int{self.round_to_bits} of {plain}" if self.round_to_bits else plain

    @property
    def unpacked_dtype(self) -> str:
        """Dtype of values whose codes no kernel takes: the one that the model had before it was quantized."""
        return self._dtype if self._dtype in VALUE_BYTES else "bfloat16"

    @property
    def _dtype(self) -> str:
        return str(self.config.get("dtype") or self.config.get("torch_dtype") or "")

    def locate(self, spec: TensorSpec) -> Location:
        """Tell where the files keep a tensor."""
        return self._dialect.locate(spec)

    def is_packed(self, location: Location) -> bool:
        """Tell whether codes lie there, and not plain values."""
        return bool(self._marks_of(location))

    def kind_of(self, location: Location, spec: TensorSpec) -> Kind:
        """Tell how the codes of a packed matrix lie; CheckpointError when they fit nothing that is configured."""
        if self.quantization is None:
            mark = self._marks_of(location)[0]
            file = self.files.entry(mark).file
            raise CheckpointError(f"{file}: {mark} is there but no configuration names a quantization")
        problems = []
        for kind in self._candidates(location, kinds_of(self.quantization)):
            entries = {part: self.files.entry(name) for part, name in self.packed_names(location, kind).items()}
            problem = find_problem(location.prefix, entries, spec, kind)
            if problem is None:
                return kind
            problems.append(problem)
        raise CheckpointError("; or ".join(problems))

    def packed_names(self, location: Location, kind: Kind) -> dict[str, str]:
        """Return the names of the tensors of a packed matrix by their parts: those that are needed or are there."""
        names = {part: f"{location.prefix}.{part}" for part in kind.parts}
        return {part: name for part, name in names.items() if part in kind.needed or name in self.files}

    def growth(self, spec: TensorSpec) -> int:
        """Tell how many bytes more than its file a tensor takes once it is read; none where it is not here."""
        location = self.locate(spec)
        if not self.is_packed(location):
            return self._growth_of_blocks(location, spec)
        if self._is_incomplete(location) or not (kind := self.kind_of(location, spec)).is_unpacked:
            return 0
        stored = sum(self.files.entry(name).num_bytes for name in self.packed_names(location, kind).values())
        return spec.num_values * VALUE_BYTES[self.unpacked_dtype] - stored

    def _growth_of_blocks(self, location: Location, spec: TensorSpec) -> int:
        """Tell how many bytes more values in ggml's blocks take: scales become float32, odd codes bytes."""
        if location.name in self.files.missing:
            return 0
        entry = self.files.entry(location.name)
        if entry.dtype not in GGML_BLOCKS:
            return 0
        block = GGML_BLOCKS[entry.dtype]
        bits = block.bits_in_memory if spec.is_quantizable else 8 * VALUE_BYTES[self.unpacked_dtype]
        return int(spec.num_values * (bits / 8 - block.num_bytes / block.num_values))

    def _candidates(self, location: Location, kinds: Sequence[Kind]) -> Sequence[Kind]:
        """List the kinds whose tensors are all there, or the first kind, whose missing ones can be named."""
        complete = [kind for kind in kinds if all(f"{location.prefix}.{part}" in self.files for part in kind.needed)]
        return complete or kinds[:1]

    def _check(self, spec: TensorSpec) -> None:
        location = self.locate(spec)
        if self.is_packed(location):
            if not self._is_incomplete(location):
                self.kind_of(location, spec)
        elif location.name not in self.files.missing:
            check_plain(location, self.files.entry(location.name), spec)

    def _is_incomplete(self, location: Location) -> bool:
        """Tell whether tensors of a packed matrix are in a shard that is not here."""
        return any(f"{location.prefix}.{part}" in self.files.missing for layout in LAYOUTS for part in layout.parts)

    def _marks_of(self, location: Location) -> list[str]:
        """List the tensors that only packed matrices have."""
        return [name for mark in MARKS if (name := f"{location.prefix}.{mark}") in self.files]
