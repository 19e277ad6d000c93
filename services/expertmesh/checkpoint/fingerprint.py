"""One short name for a model's weights, the same wherever they lie. Knows bytes, not what they mean."""

import hashlib
import json

from expertmesh.checkpoint.contents import Contents
from expertmesh.errors import CheckpointError

SAMPLE_BYTES = 512
LENGTH = 16
# What a tool writes about itself into config.json says nothing about the model.
IGNORED_KEYS = frozenset({"transformers_version", "_name_or_path", "use_cache", "torch_dtype", "dtype"})


def fingerprint(checkpoint: Contents) -> str:
    """Hash the configuration, and each tensor's name, dtype, shape and 512 bytes from its middle, to 16 hex digits.

    It does not depend on how tensors are spread over files; a split directory, of which a server may hold a few shards
    only, has it written down. Weights that are rounded while loading are another model. Two fine-tunes of one model
    differ in it, as nearly every value of theirs differs; a change of a few values outside the samples is not seen.
    """
    stored = _recorded(checkpoint) if checkpoint.files.split else _hash_tensors(checkpoint)
    if not checkpoint.round_to_bits:
        return stored
    return hashlib.sha256(f"{stored} int{checkpoint.round_to_bits}".encode()).hexdigest()[:LENGTH]


def _hash_tensors(checkpoint: Contents) -> str:
    digest = hashlib.sha256()
    config = {key: value for key, value in checkpoint.config.items() if key not in IGNORED_KEYS}
    digest.update(f"{json.dumps(config, sort_keys=True)} {checkpoint.quantization}".encode())
    for name, entry in sorted(checkpoint.files.entries.items()):
        digest.update(f"\n{name} {entry.dtype} {entry.shape} ".encode())
        digest.update(checkpoint.files.sample(name, SAMPLE_BYTES))
    return digest.hexdigest()[:LENGTH]


def _recorded(checkpoint: Contents) -> str:
    recorded = checkpoint.files.split.get("fingerprint")
    if not isinstance(recorded, str) or not recorded:
        raise CheckpointError(f"{checkpoint.directory}: the index of a split checkpoint names no fingerprint")
    return recorded
