"""One short name for a model's weights, the same wherever they lie. Knows bytes, not what they mean."""

import hashlib
import json
from pathlib import Path
from typing import BinaryIO

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.tensors import TensorEntry

SAMPLE_BYTES = 512
# What a tool writes about itself into config.json says nothing about the model.
IGNORED_KEYS = frozenset({"transformers_version", "_name_or_path", "use_cache", "torch_dtype", "dtype"})


def fingerprint(checkpoint: Checkpoint) -> str:
    """Hash the configuration, and each tensor's name, dtype, shape and 512 bytes from its middle, to 16 hex digits.

    It does not depend on how tensors are spread over files. Two fine-tunes of one model differ in it, as nearly every
    value of theirs differs; a change of a few values outside the samples is not seen.
    """
    digest = hashlib.sha256()
    config = {key: value for key, value in checkpoint.config.items() if key not in IGNORED_KEYS}
    digest.update(json.dumps(config, sort_keys=True).encode())
    handles: dict[Path, BinaryIO] = {}
    try:
        for name, entry in sorted(checkpoint.files.entries.items()):
            digest.update(f"\n{name} {entry.dtype} {entry.shape} ".encode())
            if entry.file not in handles:
                handles[entry.file] = entry.file.open("rb")
            digest.update(_sample(handles[entry.file], entry))
    finally:
        for handle in handles.values():
            handle.close()
    return digest.hexdigest()[:16]


def _sample(file: BinaryIO, entry: TensorEntry) -> bytes:
    file.seek(entry.start + max(0, entry.num_bytes - SAMPLE_BYTES) // 2)
    return file.read(min(SAMPLE_BYTES, entry.num_bytes))
