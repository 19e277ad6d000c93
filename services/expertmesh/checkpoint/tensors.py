"""Tensors by name from the safetensors files of a directory. Knows files, not what a tensor means."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from expertmesh.checkpoint.jsonfile import read_json
from expertmesh.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEADER_LENGTH_BYTES = 8
# A header above this is no header: that of Mixtral's GPTQ files is under 1 MB.
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: its file, dtype as safetensors names it, shape, and bytes [start, stop) of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return self.stop - self.start


class TensorFiles:
    """The tensors of one or several safetensors files; data is read when it is asked for."""

    def __init__(self, entries: Mapping[str, TensorEntry]) -> None:
        self.entries = entries

    @classmethod
    def open(cls, directory: Path) -> "TensorFiles":
        """Read the headers of a single file or of the shards that an index names.

        CheckpointError names the file that is missing, truncated or no safetensors file.
        """
        files = _list_files(directory)
        entries = {name: entry for file in files for name, entry in _read_header(file)}
        return cls(entries)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor; CheckpointError when there is none of this name or its file is damaged."""
        entry = self.entry(name)
        try:
            with safe_open(entry.file, framework="pt") as file:
                tensor: torch.Tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{entry.file}: tensor {name} cannot be read: {error}") from error
        return tensor

    def entry(self, name: str) -> TensorEntry:
        """Return where a tensor lies; CheckpointError when there is none of this name."""
        try:
            return self.entries[name]
        except KeyError:
            files = sorted({entry.file.name for entry in self.entries.values()})
            raise CheckpointError(f"tensor {name} is in none of {', '.join(files)}") from None


def _list_files(directory: Path) -> list[Path]:
    index = directory / INDEX_FILE
    if index.exists():
        return [directory / name for name in _read_index(index)]
    if (directory / SINGLE_FILE).exists():
        return [directory / SINGLE_FILE]
    raise CheckpointError(f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}")


def _read_index(path: Path) -> list[str]:
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path}: weight_map is missing or does not map tensors to file names")
    names = sorted(set(weight_map.values()))
    for name in names:
        if name in ("", "..") or Path(name).name != name or not name.isprintable():
            raise CheckpointError(f"{path}: shard {name!r} is not a file of this directory")
    return names


def _read_header(path: Path) -> Iterator[tuple[str, TensorEntry]]:
    """Yield the entries of a file's header, checked against the size of the file."""
    try:
        # Opening checks that the entries are in order, do not overlap and end where the file ends.
        with safe_open(path, framework="pt"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    data = HEADER_LENGTH_BYTES + length
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            yield name, TensorEntry(path, entry["dtype"], tuple(entry["shape"]), data + start, data + stop)
