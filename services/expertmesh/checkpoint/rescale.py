"""Factors that move between matrices without changing the model, in memory and in a file. Knows no search.

Alphabet: N output features, K input features.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from expertmesh.checkpoint.safetensors_file import SafetensorsFile
from expertmesh.checkpoint.writer import writing

INPUTS, OUTPUTS = "inputs", "outputs"
MARK = "calibration"


@dataclass(frozen=True)
class Rescale:
    """What happens to a matrix [N, K] or a norm [N].

    Columns are multiplied by ``inputs`` [K], rows or the values of a norm divided by ``outputs`` [N]; both float32,
    None changes nothing.
    """

    inputs: torch.Tensor | None = None
    outputs: torch.Tensor | None = None

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``values`` [N, K] or [N] rescaled, in float32."""
        values = values.float()
        if self.inputs is not None:
            values = values * self.inputs
        return self.divide(values.T).T if values.dim() == 2 else self.divide(values)

    def divide(self, values: torch.Tensor) -> torch.Tensor:
        """Return ``values`` [..., N], such as a bias, divided by ``outputs`` in float32."""
        return values.float() if self.outputs is None else values.float() / self.outputs

    def cpu(self) -> "Rescale":
        """Return the same factors in the memory of the CPU."""
        inputs, outputs = (None if factors is None else factors.cpu() for factors in (self.inputs, self.outputs))
        return Rescale(inputs, outputs)


def digest(rescales: Mapping[str, Rescale]) -> str:
    """Hash names and factors."""
    total = hashlib.sha256()
    for name, factors in sorted(_tensors(rescales)):
        total.update(f"\n{name} ".encode())
        total.update(factors.numpy().tobytes())
    return total.hexdigest()


def save(path: Path, rescales: Mapping[str, Rescale], mark: str) -> None:
    """Write factors as safetensors; the file appears whole or not at all. ``mark`` says what they were made from."""
    with writing(path, 2 * len(rescales), {MARK: mark}) as writer:
        for name, factors in _tensors(rescales):
            writer.add(name, factors)


def load(path: Path, mark: str) -> dict[str, Rescale] | None:
    """Read what ``save`` wrote; None where there is no file or it was made from something else.

    CheckpointError when the file is damaged.
    """
    if not path.exists():
        return None
    file = SafetensorsFile(path)
    if file.metadata.get(MARK) != mark:
        return None
    names = {name.rpartition(".")[0] for name in file.entries}
    return {name: Rescale(_read(file, f"{name}.{INPUTS}"), _read(file, f"{name}.{OUTPUTS}")) for name in names}


def _tensors(rescales: Mapping[str, Rescale]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, rescale in rescales.items():
        for part, factors in ((INPUTS, rescale.inputs), (OUTPUTS, rescale.outputs)):
            if factors is not None:
                yield f"{name}.{part}", factors


def _read(file: SafetensorsFile, name: str) -> torch.Tensor | None:
    return file.read(name) if name in file.entries else None
