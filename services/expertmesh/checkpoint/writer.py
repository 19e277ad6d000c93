"""Writing a safetensors file one tensor at a time. Knows the file format and atomic files, not what a tensor means.

safetensors' own writer wants all tensors of a file in memory, which for an expert of Mixtral in bfloat16 are 11 GB.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from expertmesh.checkpoint.dtype_names import DTYPE_NAMES
from expertmesh.checkpoint.safetensors_file import HEADER_LENGTH_BYTES, METADATA
from expertmesh.errors import CheckpointError

# The header lies before the data and is known after it: room for a name, a shape and two offsets.
HEADER_BYTES_PER_TENSOR = 320
HEADER_BYTES_MORE = 1024
# What the size of every dtype divides: so far apart, tensors of any lie where they can be read.
ALIGNMENT = 8


class TensorWriter:
    """Appends tensors to a file whose header is written at the end; made by ``writing``."""

    def __init__(self, file: BinaryIO, max_tensors: int, metadata: Mapping[str, str]) -> None:
        self._file = file
        self._header: dict[str, object] = {METADATA: dict(metadata)}
        self._header_bytes = (max_tensors * HEADER_BYTES_PER_TENSOR + HEADER_BYTES_MORE) // 8 * 8
        self._num_data_bytes = 0
        self._odd: list[tuple[str, torch.Tensor]] = []
        file.seek(HEADER_LENGTH_BYTES + self._header_bytes)

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor, or keep it for the end where others could not lie behind it; these are small as a rule.

        CheckpointError when the format cannot hold its dtype.
        """
        if tensor.dtype not in DTYPE_NAMES:
            raise CheckpointError(f"cannot write {name}: {tensor.dtype} {list(tensor.shape)}")
        if tensor.nbytes % ALIGNMENT:
            self._odd.append((name, tensor))
        else:
            self._write(name, tensor)

    def _write(self, name: str, tensor: torch.Tensor) -> None:
        start, stop = self._num_data_bytes, self._num_data_bytes + tensor.nbytes
        self._header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        self._file.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        self._num_data_bytes = stop

    def finish(self) -> None:
        """Write what was kept, widest dtype first, and the header, padded with spaces as the format allows."""
        for name, tensor in sorted(self._odd, key=lambda odd: -odd[1].dtype.itemsize):
            self._write(name, tensor)
        header = json.dumps(self._header).encode()
        if len(header) > self._header_bytes:
            raise CheckpointError(f"the header takes {len(header)} bytes; {self._header_bytes} were set aside")
        self._file.seek(0)
        self._file.write(self._header_bytes.to_bytes(HEADER_LENGTH_BYTES, "little"))
        self._file.write(header.ljust(self._header_bytes))


@contextmanager
def writing(path: Path, max_tensors: int, metadata: Mapping[str, str]) -> Iterator[TensorWriter]:
    """Yield a writer for ``path``, which appears only when everything is written and on disk."""
    with replacing(path) as file:
        writer = TensorWriter(file, max_tensors, metadata)
        yield writer
        writer.finish()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of ``path`` at the end, whole and on disk, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hash a file, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
