"""A checkpoint laid out by who loads it: a file for the gateway and a file for each expert, with HF's index.

Knows which matrices a model has and who needs them. Any reader of HF's sharded files can read the result.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expertmesh.checkpoint.configuration import count_experts, is_dense
from expertmesh.checkpoint.fingerprint import fingerprint
from expertmesh.checkpoint.names import hf_name
from expertmesh.checkpoint.reader import PACKED_PARTS, Checkpoint
from expertmesh.checkpoint.safetensors_file import SafetensorsFile
from expertmesh.checkpoint.tensors import INDEX_FILES, SPLIT_KEY
from expertmesh.checkpoint.writer import replacing, sha256_of, writing
from expertmesh.errors import CheckpointError

INDEX_FILE = INDEX_FILES[0]
GATEWAY_FILE = "gateway.safetensors"
# What else belongs to a checkpoint: tokenizer, sampling defaults, the quantizer's own parameters.
COMPANIONS = ("generation_config.json", "quant*_config.json", "tokenizer*", "special_tokens_map.json", "sentencepiece*")


@dataclass(frozen=True)
class Matrix:
    """A matrix or vector that a model has, by its name and its shape."""

    name: str
    shape: tuple[int, ...]


# Gives the tensors of a matrix by their names in the new file.
Convert = Callable[[Matrix], Iterator[tuple[str, torch.Tensor]]]
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
    has_one_ffn = is_dense(checkpoint.config)

    def convert(matrix: Matrix) -> Iterator[tuple[str, torch.Tensor]]:
        return checkpoint.stored(matrix.name, hf_name(matrix.name, has_one_ffn), matrix.shape)

    write(checkpoint, Target(directory, checkpoint.config, fingerprint(checkpoint), convert), report)


def write(checkpoint: Checkpoint, target: Target, report: Report) -> None:
    """Write the files of ``target`` from the matrices of ``checkpoint``. Errors as ``split``."""
    target.directory.mkdir(parents=True, exist_ok=True)
    # Codes never take more than what they are made of.
    _check_room(target.directory, sum(entry.num_bytes for entry in checkpoint.files.entries.values()))
    files = files_of(checkpoint)
    total = sum(len(matrices) for matrices in files.values())
    done = 0
    for name, matrices in files.items():
        if not _is_finished(target.directory / name, target.mark):
            _write_file(target, name, matrices)
        done += len(matrices)
        report(done, total)
    _copy_companions(checkpoint.directory, target.directory)
    _write_json(target.directory / "config.json", target.config)
    # The index comes last: with it, the directory is a whole checkpoint.
    _write_json(target.directory / INDEX_FILE, _index(target, list(files)))


def find_damaged(checkpoint: Checkpoint) -> list[str]:
    """Hash the shards that are there; returns the names of those that differ from what `expertmesh split` wrote.

    CheckpointError when the checkpoint was not written by it, or its notes are damaged.
    """
    digests = checkpoint.files.split.get("sha256")
    if not isinstance(digests, dict):
        raise CheckpointError(f"{checkpoint.directory}: its index holds no checksums; only split checkpoints have them")
    paths = {name: checkpoint.directory / Path(name).name for name in digests}
    return [name for name, path in paths.items() if path.exists() and sha256_of(path) != digests[name]]


def files_of(checkpoint: Checkpoint) -> dict[str, list[Matrix]]:
    """List who gets which matrices, file by file."""
    config = checkpoint.config
    experts = range(count_experts(checkpoint.directory, config))
    return {
        GATEWAY_FILE: list(_gateway_matrices(checkpoint)),
        **{f"expert-{expert:02d}.safetensors": list(_expert_matrices(config, expert)) for expert in experts},
    }


def _gateway_matrices(checkpoint: Checkpoint) -> Iterator[Matrix]:
    config = checkpoint.config
    hidden, vocab = _count(config, "hidden_size"), _count(config, "vocab_size")
    num_heads = _count(config, "num_attention_heads")
    head_dim = config.get("head_dim") or hidden // num_heads
    num_q, num_kv = num_heads * head_dim, (config.get("num_key_value_heads") or num_heads) * head_dim
    yield Matrix("model.embed_tokens", (vocab, hidden))
    yield Matrix("model.norm", (hidden,))
    if not config.get("tie_word_embeddings"):
        yield Matrix("lm_head", (vocab, hidden))
    for layer in range(_count(config, "num_hidden_layers")):
        prefix = f"model.layers.{layer}"
        yield Matrix(f"{prefix}.input_layernorm", (hidden,))
        yield Matrix(f"{prefix}.post_attention_layernorm", (hidden,))
        yield Matrix(f"{prefix}.self_attn.q_proj", (num_q, hidden))
        yield Matrix(f"{prefix}.self_attn.k_proj", (num_kv, hidden))
        yield Matrix(f"{prefix}.self_attn.v_proj", (num_kv, hidden))
        yield Matrix(f"{prefix}.self_attn.o_proj", (hidden, num_q))
        if not is_dense(config):
            yield Matrix(f"{prefix}.block_sparse_moe.gate", (count_experts(checkpoint.directory, config), hidden))


def _expert_matrices(config: dict[str, Any], expert: int) -> Iterator[Matrix]:
    hidden, inner = _count(config, "hidden_size"), _count(config, "intermediate_size")
    for layer in range(_count(config, "num_hidden_layers")):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts.{expert}"
        yield Matrix(f"{prefix}.w1", (inner, hidden))
        yield Matrix(f"{prefix}.w2", (hidden, inner))
        yield Matrix(f"{prefix}.w3", (inner, hidden))


def _count(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: {key} is {value!r}; a positive integer would be right")
    return value


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


def _write_file(target: Target, name: str, matrices: list[Matrix]) -> None:
    metadata = {"format": "pt", "fingerprint": target.mark}
    with writing(target.directory / name, len(matrices) * len(PACKED_PARTS), metadata) as writer:
        for matrix in matrices:
            for tensor_name, tensor in target.convert(matrix):
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
