"""What a checkpoint directory holds, as far as its configuration and the headers of its files tell. Needs no torch.

All that can be known before a weight is read is checked here, the same for whoever opens a checkpoint.
"""

from pathlib import Path
from typing import Any, Self

from expertmesh.architectures.dialects import Location
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.registry import architecture_of, tensors_of
from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.configuration import read_configuration
from expertmesh.checkpoint.headers import check_groups, check_plain, check_qweight
from expertmesh.checkpoint.quantization import AwqConfig, QuantizationConfig, read_quantization
from expertmesh.checkpoint.tensors import TensorFiles
from expertmesh.errors import CheckpointError

PACKED_PARTS = ("qweight", "qzeros", "scales", "g_idx", "bias")


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
        quantization = read_quantization(directory, configuration.values)
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
        plain = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return str(self.quantization or (f"int{self.round_to_bits} of {plain}" if self.round_to_bits else plain))

    def locate(self, spec: TensorSpec) -> Location:
        """Tell where the files keep a tensor."""
        return self._dialect.locate(spec)

    def is_packed(self, location: Location) -> bool:
        """Tell whether codes lie there, and not plain values."""
        return f"{location.prefix}.qweight" in self.files

    def packed_names(self, location: Location) -> dict[str, str]:
        """Return the names of the tensors of a packed matrix by their parts: those that are needed or are there."""
        has_zeros = isinstance(self.quantization, AwqConfig) and self.quantization.has_zero_points
        needed = {"qweight", "scales", *(["qzeros"] if has_zeros else [])}
        names = {part: f"{location.prefix}.{part}" for part in PACKED_PARTS}
        return {part: name for part, name in names.items() if part in needed or name in self.files}

    def _check(self, spec: TensorSpec) -> None:
        location = self.locate(spec)
        if self.is_packed(location):
            self._check_packed(location, spec)
        elif location.name not in self.files.missing:
            check_plain(location, self.files.entry(location.name), spec)

    def _check_packed(self, location: Location, spec: TensorSpec) -> None:
        names = self.packed_names(location)
        if any(name in self.files.missing for name in names.values()):
            return
        entries = {part: self.files.entry(name) for part, name in names.items()}
        if self.quantization is None:
            where = f"{entries['qweight'].file}: {names['qweight']}"
            raise CheckpointError(f"{where} is there but no configuration names a quantization")
        check_qweight(names["qweight"], entries["qweight"], spec, self.quantization)
        check_groups(location.prefix, entries["scales"], spec, self.quantization)
