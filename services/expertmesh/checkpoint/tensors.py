"""Tensors by name from the weight files of a directory. Knows which files belong together, not what a tensor means."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertmesh.architectures.dialects import Part
from expertmesh.architectures.jsonfile import read_json
from expertmesh.checkpoint.entry import Room, TensorEntry, TensorFile
from expertmesh.checkpoint.gguf_tensors import GgufTensors
from expertmesh.checkpoint.safetensors_file import SafetensorsFile
from expertmesh.errors import CheckpointError
from expertmesh.gguf.files import find_gguf, open_gguf

if TYPE_CHECKING:
    import torch

# Safetensors before pickles, HF's names before those of others; an index before a file that it may name.
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "consolidated.safetensors", "pytorch_model.bin")
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)")
# Files of torch.save that belong together without numbers that say how many there are.
PARTS = ("consolidated.*.pt", "consolidated.*.pth")
# Where there is neither an index nor a single file, the first of these that are there.
SETS = ("*.safetensors", *PARTS, "pytorch_model-*.bin")
# In the index that `expertmesh split` writes: what only it knows about the shards.
SPLIT_KEY = "expertmesh"
# Of names that are nearest to a missing one, so many are shown.
MAX_NEAR = 3


class TensorFiles:
    """The tensors of one or several files; data is read when it is asked for.

    ``split`` is what `expertmesh split` noted about its shards, empty for any other directory; ``missing`` tensors are
    in those of its shards that are not here.
    """

    def __init__(self, files: Iterable[TensorFile], missing: Mapping[str, Path], split: Mapping[str, Any]) -> None:
        self._file_of = {name: file for file in files for name in file.entries}
        self.missing = missing
        self.split = split
        self.entries = {name: file.entries[name] for name, file in self._file_of.items()}

    @classmethod
    def open(cls, directory: Path) -> "TensorFiles":
        """Read the headers of the weight files of a directory, or of a GGUF model.

        Of a split directory some shards may be missing, as a server needs only its own. CheckpointError names any other
        file that is missing, and a file that is truncated or not what its name says.
        """
        if gguf := find_gguf(directory):
            return cls([GgufTensors(open_gguf(gguf))], {}, {})
        for index in (directory / name for name in INDEX_FILES):
            if index.exists():
                return _open_index(index)
        return cls([_open(path) for path in _find_files(directory)], {}, {})

    def __contains__(self, name: str) -> bool:
        return name in self.entries or name in self.missing

    @property
    def names(self) -> Iterable[str]:
        """Every tensor's name, those in missing shards included."""
        return [*self.entries, *self.missing]

    def read(self, name: str, part: Part = (), room: Room | None = None) -> "torch.Tensor":
        """Read a tensor or a part of it, into ``room`` or mapped.

        CheckpointError when there is none of this name or its file is damaged.
        """
        self.entry(name)
        return self._file_of[name].read(name, part, room)

    def sample(self, name: str, max_bytes: int) -> bytes:
        """Return up to ``max_bytes`` bytes from the middle of a tensor."""
        return self._file_of[name].sample(name, max_bytes)

    def entry(self, name: str) -> TensorEntry:
        """Return where a tensor lies; CheckpointError when there is none of this name."""
        if name in self.missing:
            raise CheckpointError(f"{self.missing[name]} is missing; it holds {name}")
        try:
            return self.entries[name]
        except KeyError:
            files = sorted({entry.file.name for entry in self.entries.values()})
            near = ", ".join(islice(dict.fromkeys(self._nearest(name)), MAX_NEAR)) or "nothing at all"
            raise CheckpointError(f"tensor {name} is in none of {', '.join(files)}; nearest to it is {near}") from None

    def _nearest(self, name: str) -> Iterator[str]:
        """Yield names that begin like one that is not there, those first that do so for longest."""
        words = name.split(".")
        for count in range(len(words) - 1, -1, -1):
            start = ".".join((*words[:count], ""))
            yield from sorted(other for other in self.entries if other.startswith(start))


def _open(path: Path) -> TensorFile:
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    # Here torch is needed, to list what a file holds.
    from expertmesh.checkpoint.pickle_file import PickleFile

    return PickleFile(path)


def _open_index(index: Path) -> TensorFiles:
    weight_map, split = _read_index(index)
    paths = {name: index.parent / file for name, file in weight_map.items()}
    missing = {name: path for name, path in paths.items() if split and not path.exists()}
    present = sorted(set(paths.values()) - set(missing.values()))
    return TensorFiles([_open(path) for path in present], missing, split)


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{path}: weight_map is missing or does not map tensors to file names")
    for name in sorted(set(weight_map.values())):
        if name in ("", "..") or Path(name).name != name or not name.isprintable():
            raise CheckpointError(f"{path}: shard {name!r} is not a file of this directory")
    metadata = index.get("metadata")
    split = metadata.get(SPLIT_KEY, {}) if isinstance(metadata, dict) else {}
    if not isinstance(split, dict):
        raise CheckpointError(f"{path}: metadata.{SPLIT_KEY} is {split!r}; an object would be right")
    return weight_map, split


def _find_files(directory: Path) -> list[Path]:
    """Find the weight files of a directory without an index."""
    for name in SINGLE_FILES:
        if (directory / name).exists():
            return [directory / name]
    found = next((paths for pattern in SETS if (paths := sorted(directory.glob(pattern)))), [])
    shards = [match for path in found if (match := SHARD.fullmatch(path.name))]
    if found and len({(shard["stem"], shard["count"]) for shard in shards}) == 1 and len(shards) == len(found):
        return _complete(directory, shards[0])
    if not shards and (len(found) == 1 or any(path.match(pattern) for path in found for pattern in PARTS)):
        return found
    if found:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{directory} holds {names} and no {INDEX_FILES[0]} that says which belong together")
    raise CheckpointError(
        f"{directory} holds no weights: neither {', '.join((*INDEX_FILES, *SINGLE_FILES))}, nor {', '.join(SETS)}"
    )


def _complete(directory: Path, shard: re.Match[str]) -> list[Path]:
    """Name all shards of a set, those that are missing too."""
    numbers = range(1, int(shard["count"]) + 1)
    return [directory / f"{shard['stem']}-{number:05d}-of-{shard['count']}{shard['suffix']}" for number in numbers]
