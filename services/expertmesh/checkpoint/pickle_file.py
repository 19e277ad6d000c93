"""One file of torch.save, read without running any code that it may hold. Knows dictionaries of tensors."""

import pickle
from pathlib import Path

import torch

from expertmesh.architectures.dialects import Part
from expertmesh.checkpoint.entry import TensorEntry
from expertmesh.errors import CheckpointError

DTYPE_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int64: "I64",
}


class PickleFile:
    """The tensors of one file, mapped into memory and read from disk when they are used.

    CheckpointError when the file is missing or damaged, holds anything but a dictionary of tensors, or code.
    """

    def __init__(self, path: Path) -> None:
        self._tensors = _load(path)
        self.entries = {name: _describe(path, tensor) for name, tensor in self._tensors.items()}

    def read(self, name: str, part: Part = ()) -> torch.Tensor:
        """Return a tensor or a part of it."""
        return self._tensors[name][part] if part else self._tensors[name]

    def sample(self, name: str, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` bytes from the middle of a tensor."""
        values = self._tensors[name].flatten()
        count = max_bytes // values.element_size()
        start = max(0, len(values) - count) // 2
        return values[start : start + count].contiguous().view(torch.uint8).numpy().tobytes()


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not loaded, as it could run code; convert it to safetensors"
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is damaged or not a file of torch.save: {reason}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} does not hold a dictionary of tensors")
    return loaded


def _describe(path: Path, tensor: torch.Tensor) -> TensorEntry:
    dtype = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
    return TensorEntry(path, dtype, tuple(tensor.shape), tensor.nbytes)
