"""Every byte of the weights that a server holds, hashed. Knows files and tensors, not who compares what comes of it."""

import hashlib
from collections.abc import Iterable, Sequence

import torch

from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.contents import Contents
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.shards import GATEWAY_FILE, checksums, expert_file
from expertmesh.checkpoint.writer import sha256_of
from expertmesh.errors import CheckpointError


def verify_experts(checkpoint: Checkpoint, experts: Sequence[int]) -> tuple[str, ...]:
    """Hash the tensors of each expert in all layers, under HF's names; returns the SHA-256 of each, in hexadecimal.

    They are those of the directory that `expertmesh split` makes of this one, too. CheckpointError when a file of such
    a directory is not what was written, or as ``Checkpoint.stored``.
    """
    _check_files(checkpoint, map(expert_file, experts))
    return tuple(_hash(checkpoint, checkpoint.tensors.of_expert(expert)) for expert in experts)


def verify_gateway(checkpoint: Checkpoint) -> str:
    """Do the same for all that is no expert."""
    _check_files(checkpoint, [GATEWAY_FILE])
    return _hash(checkpoint, checkpoint.tensors.of_gateway())


def _check_files(checkpoint: Contents, names: Iterable[str]) -> None:
    """Compare files with what was written down when they were; nothing is where no `expertmesh split` wrote them."""
    if not checkpoint.files.split:
        return
    right = checksums(checkpoint)
    for name in names:
        path = checkpoint.directory / name
        if name in right and path.exists() and (found := sha256_of(path)) != right[name]:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is {found}; {right[name]} would be right")


def _hash(checkpoint: Checkpoint, specs: Iterable[TensorSpec]) -> str:
    digest = hashlib.sha256()
    for spec in specs:
        for name, tensor in checkpoint.stored(spec, tries_codes=False):
            digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
