"""Models in GGUF: which files they are, and what these hold. Knows neither keys nor what a tensor means.

The package gguf, of llama.cpp's authors, reads the files; it is an extra, and imported when there is something to read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expertmesh.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from gguf import GGUFReader

SUFFIX = ".gguf"
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# A directory that holds one of these is a checkpoint of another kind, whatever else it holds.
OTHERS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
# In files of split models: how many there are, and how many tensors all of them hold.
NUM_FILES, NUM_TENSORS = "split.count", "split.tensors.count"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of ``file``: ``kind`` is its type as ggml names it ("F16", "Q4_K"), ``shape`` has outputs first.

    ``data`` is mapped from the file: values, or bytes [..., outputs, bytes of an output] where values lie in blocks.
    """

    file: Path
    kind: str
    shape: tuple[int, ...]
    data: "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class GgufModel:
    """The metadata of a model's first file, and the tensors of all its files."""

    file: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def open_gguf(file: Path) -> GgufModel:
    """Read what ``find_gguf`` found; CheckpointError when a file is missing or damaged, or gguf not installed.

    To list a vocabulary takes seconds: who asks again for a file that is as it was gets what was read before.
    """
    try:
        found = file.stat()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    return _read(file, found.st_mtime_ns, found.st_size)


def find_gguf(path: Path) -> Path | None:
    """Find the first file of the GGUF model that ``path`` is or holds; None for a checkpoint of another kind.

    CheckpointError when a directory holds several models.
    """
    if path.is_file() and path.suffix == SUFFIX:
        return _first_file(path)
    if not path.is_dir() or any(next(path.glob(pattern), None) for pattern in OTHERS):
        return None
    models = sorted(set(map(_first_file, path.glob(f"*{SUFFIX}"))))
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise CheckpointError(f"{path} holds several models: {names}; the path of one of them would be right")
    return models[0] if models else None


@lru_cache(maxsize=1)
def _read(file: Path, changed_ns: int, size_bytes: int) -> GgufModel:
    reader = _open(file)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    parts = [(file, reader), *((path, _open(path)) for path in _more_files(file, metadata))]
    tensors = {name: tensor for path, part in parts for name, tensor in _tensors(path, part)}
    expected = metadata.get(NUM_TENSORS, len(tensors))
    if len(tensors) != expected:
        raise CheckpointError(f"{file}: {NUM_TENSORS} is {expected}, but its files hold {len(tensors)}")
    return GgufModel(file, metadata, tensors)


def _first_file(path: Path) -> Path:
    shard = SHARD.fullmatch(path.name)
    return path.with_name(f"{shard['stem']}-00001-of-{shard['count']}{SUFFIX}") if shard else path


def _more_files(first: Path, metadata: Mapping[str, Any]) -> Iterable[Path]:
    """List the other files of a split model."""
    count, shard = metadata.get(NUM_FILES, 1), SHARD.fullmatch(first.name)
    if count <= 1:
        return ()
    if shard is None or int(shard["count"]) != count:
        raise CheckpointError(f"{first}: it is one of {count} files; NAME-00001-of-{count:05d}{SUFFIX} would be right")
    return [first.with_name(f"{shard['stem']}-{number:05d}-of-{count:05d}{SUFFIX}") for number in range(2, count + 1)]


def _open(path: Path) -> "GGUFReader":
    try:
        from gguf import GGUFReader
    except ImportError:
        raise CheckpointError(
            f"{path} needs gguf, which is not installed: pip install 'expertmesh[gguf]' would be right"
        ) from None
    try:
        # Copied when written to, which nobody does: torch takes no memory that is read only.
        return GGUFReader(path, "c")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except Exception as error:  # whatever a damaged file leads to there
        raise CheckpointError(f"{path} is damaged or no GGUF file that is known: {error!r}") from None


def _tensors(path: Path, reader: "GGUFReader") -> Iterator[tuple[str, GgufTensor]]:
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        yield tensor.name, GgufTensor(path, tensor.tensor_type.name, shape, tensor.data)
