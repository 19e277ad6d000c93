"""A checkpoint laid out by who loads it: a file for the gateway and a file for each expert, with HF's index.

Knows files and who needs them. Any reader of HF's sharded files can read the result.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expertmesh.architectures.tensor_table import TensorSpec
from expertmesh.checkpoint.contents import Contents
from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.layouts import MAX_PARTS
from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.safetensors_file import SafetensorsFile
from expertmesh.checkpoint.tensors import INDEX_FILES, SPLIT_KEY
from expertmesh.checkpoint.writer import replacing, sha256_of, writing
from expertmesh.errors import CheckpointError
from expertmesh.gguf.files import find_gguf

INDEX_FILE = INDEX_FILES[0]
GATEWAY_FILE = "gateway.safetensors"
# What else belongs to a checkpoint: tokenizer, sampling defaults, the quantizer's own parameters.
COMPANIONS = (
    "generation_config.json",
    "quant*_config.json",
    "tokenizer*",
    "tekken.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "sentencepiece*",
    "chat_template.jinja",
)


# Gives the tensors of a matrix or vector by their names in the new file.
Convert = Callable[[TensorSpec], Iterator[tuple[str, torch.Tensor]]]
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Target:
    """What is written: ``convert`` makes the tensors, ``config`` is config.json, ``mark`` the fingerprint of it all."""

    directory: Path
    config: dict[str, Any]
    mark: str
    convert: Convert


def split(checkpoint: Checkpoint, directory: Path, report: Report) -> None:
    """Write the tensors of ``checkpoint`` by who loads them; codes stay as they are.

    Files that an earlier, interrupted run has finished are kept. ``report(done, total)`` counts matrices.
    CheckpointError when the directory holds another model, the disk is too small or a tensor cannot be read.
    """
    write(checkpoint, Target(directory, checkpoint.config, fingerprint(checkpoint), checkpoint.stored), report)


def write(checkpoint: Checkpoint, target: Target, report: Report) -> None:
    """Write the files of ``target`` from the tensors of ``checkpoint``. Errors as ``split``."""
    if gguf := find_gguf(checkpoint.directory):
        raise CheckpointError(f"{gguf} is written in no other form; a checkpoint of safetensors would be right")
    target.directory.mkdir(parents=True, exist_ok=True)
    # Codes never take more than what they are made of.
    _check_room(target.directory, sum(entry.num_bytes for entry in checkpoint.files.entries.values()))
    files = files_of(checkpoint)
    total = sum(len(specs) for specs in files.values())
    done = 0
    for name, specs in files.items():
        if not _is_finished(target.directory / name, target.mark):
            _write_file(target, name, specs)
        done += len(specs)
        report(done, total)
    _copy_companions(checkpoint.directory, target.directory)
    _write_json(target.directory / "config.json", target.config)
    # The index comes last: with it, the directory is a whole checkpoint.
    _write_json(target.directory / INDEX_FILE, _index(target, list(files)))


def find_damaged(checkpoint: Contents) -> list[str]:
    """Hash the shards that are there; returns the names of those that differ from what `expertmesh split` wrote.

    CheckpointError when the checkpoint was not written by it, or its notes are damaged.
    """
    digests = checksums(checkpoint)
    paths = {name: checkpoint.directory / Path(name).name for name in digests}
    return [name for name, path in paths.items() if path.exists() and sha256_of(path) != digests[name]]


def checksums(checkpoint: Contents) -> dict[str, str]:
    """Return the SHA-256 of each file as `expertmesh split` wrote it down; CheckpointError where it did not."""
    digests = checkpoint.files.split.get("sha256")
    if not isinstance(digests, dict):
        raise CheckpointError(f"{checkpoint.directory}: its index holds no checksums; only split checkpoints have them")
    return digests


def expert_file(expert: int) -> str:
    """Name the file of an expert."""
    return f"expert-{expert:02d}.safetensors"


def files_of(checkpoint: Checkpoint) -> dict[str, list[TensorSpec]]:
    """List who gets which matrices and vectors, file by file."""
    tensors = checkpoint.tensors
    experts = range(checkpoint.model.num_experts)
    return {
        GATEWAY_FILE: list(tensors.of_gateway()),
        **{expert_file(expert): list(tensors.of_expert(expert)) for expert in experts},
    }


def _check_room(directory: Path, needed_bytes: int) -> None:
    """Refuse before writing what cannot fit; what an interrupted run left counts as room."""
    room = shutil.disk_usage(directory).free + sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    if room < needed_bytes:
        raise CheckpointError(
            f"{directory} has room for {room / 1e9:.1f} GB; {needed_bytes / 1e9:.1f} GB would be written"
        )


def _is_finished(path: Path, mark: str) -> bool:
    if not path.exists():
        return False
    found = SafetensorsFile(path).metadata.get("fingerprint")
    if found != mark:
        raise CheckpointError(f"{path} belongs to model {found}, not to {mark}; choose an empty directory")
    return True


def _write_file(target: Target, name: str, specs: list[TensorSpec]) -> None:
    metadata = {"format": "pt", "fingerprint": target.mark}
    with writing(target.directory / name, len(specs) * MAX_PARTS, metadata) as writer:
        for spec in specs:
            for tensor_name, tensor in target.convert(spec):
                writer.add(tensor_name, tensor)


def _copy_companions(source: Path, directory: Path) -> None:
    for pattern in COMPANIONS:
        for path in source.glob(pattern):
            if path.is_file() and not (directory / path.name).exists():
                with replacing(directory / path.name) as file:
                    file.write(path.read_bytes())


def _index(target: Target, names: list[str]) -> dict[str, Any]:
    files = {name: SafetensorsFile(target.directory / name) for name in names}
    return {
        "metadata": {
            "total_size": sum(entry.num_bytes for file in files.values() for entry in file.entries.values()),
            SPLIT_KEY: {
                "fingerprint": target.mark,
                "sha256": {name: sha256_of(target.directory / name) for name in names},
            },
        },
        "weight_map": {tensor: name for name, file in files.items() for tensor in file.entries},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")
