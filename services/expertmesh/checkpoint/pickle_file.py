"""One file of torch.save, read without running any code that it may hold. Knows dictionaries of tensors."""

import pickle
from pathlib import Path

import torch

from expertmesh.architectures.dialects import Part
from expertmesh.checkpoint.dtype_names import DTYPE_NAMES
from expertmesh.checkpoint.entry import Room, TensorEntry, copy_into
from expertmesh.errors import CheckpointError

# How files of torch.save begin: as a zip archive, before torch 1.6 with a pickled number.
NEWER_START = b"PK\x03\x04"
OLDER_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


class PickleFile:
    """The tensors of one file, mapped into memory and read from disk when they are used.

    Files in the format of torch before 1.6 cannot be mapped and are read as a whole. CheckpointError when the file is
    missing or damaged, holds anything but a dictionary of tensors, or code.
    """

    def __init__(self, path: Path) -> None:
        self._tensors = _load(path)
        self.entries = {name: _describe(path, tensor) for name, tensor in self._tensors.items()}

    def read(self, name: str, part: Part = (), room: Room | None = None) -> torch.Tensor:
        """Return a tensor or a part of it: a copy in ``room``, or as it is mapped."""
        tensor = self._tensors[name][part] if part else self._tensors[name]
        return copy_into(room, tensor) if room else tensor

    def sample(self, name: str, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` bytes from the middle of a tensor."""
        values = self._tensors[name].flatten()
        count = max_bytes // values.element_size()
        start = max(0, len(values) - count) // 2
        return values[start : start + count].contiguous().view(torch.uint8).numpy().tobytes()


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_mappable(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and is not loaded, as it could run code; convert it to safetensors"
        ) from error
    except Exception as error:  # of what damaged bytes make anything may come
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is damaged or not a file of torch.save: {reason}") from error
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path} does not hold a dictionary of tensors")
    return loaded


def _is_mappable(path: Path) -> bool:
    """Tell newer files of torch.save from older ones; ValueError when it is neither."""
    with path.open("rb") as file:
        start = file.read(len(OLDER_START))
    if start != OLDER_START and not start.startswith(NEWER_START):
        raise ValueError("it begins like none")
    return start != OLDER_START


def _describe(path: Path, tensor: torch.Tensor) -> TensorEntry:
    dtype = DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
    return TensorEntry(path, dtype, tuple(tensor.shape), tensor.nbytes)
