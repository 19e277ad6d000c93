"""One safetensors file. Knows its header, not what a tensor means; needs torch to read one, not before."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from expertmesh.architectures.dialects import Part
from expertmesh.checkpoint.entry import Room, TensorEntry
from expertmesh.errors import CheckpointError

if TYPE_CHECKING:
    import torch

HEADER_LENGTH_BYTES = 8
# A header above this is no header: that of Mixtral's GPTQ files is under 1 MB.
MAX_HEADER_BYTES = 100_000_000
METADATA = "__metadata__"


class SafetensorsFile:
    """The tensors of one file. CheckpointError when it is missing, truncated or no safetensors file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        header, self._data_start = _read_header(path)
        self._offsets = {name: header[name]["data_offsets"] for name in header if name != METADATA}
        self.metadata: dict[str, str] = header.get(METADATA, {})
        self.entries = dict(_entries(path, header))

    def read(self, name: str, part: Part = (), room: Room | None = None) -> "torch.Tensor":
        """Read a tensor or a part of it, into ``room`` or mapped; CheckpointError when the file is damaged."""
        # Here torch is needed, to list what a file holds it is not.
        from expertmesh.checkpoint.file_bytes import read_tensor

        start = self._data_start + self._offsets[name][0]
        try:
            return read_tensor(self.entries[name], start, part, room)
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{self._path}: tensor {name} cannot be read: {error}") from error

    def sample(self, name: str, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` bytes from the middle of a tensor."""
        start, stop = self._offsets[name]
        with self._path.open("rb") as file:
            file.seek(self._data_start + start + max(0, stop - start - max_bytes) // 2)
            return file.read(min(max_bytes, stop - start))


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header and where the data starts, checked against the size of the file."""
    try:
        # Opening checks that the entries are in order, do not overlap and end where the file ends.
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
            header: dict[str, Any] = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    return header, HEADER_LENGTH_BYTES + length


def _entries(path: Path, header: dict[str, Any]) -> Iterator[tuple[str, TensorEntry]]:
    for name, entry in header.items():
        if name != METADATA:
            start, stop = entry["data_offsets"]
            yield name, TensorEntry(path, entry["dtype"], tuple(entry["shape"]), stop - start)
