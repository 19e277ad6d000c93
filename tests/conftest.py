"""Fixtures that several folders share: the published tokenizer and small random checkpoints."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mistral_common
import pytest
import torch
from safetensors.torch import save_file

from expertmesh.kernels import awq
from expertmesh.kernels.quantize import dequantize, round_to_nearest

# Small models gain nothing from more, and threads that spin at barriers make tests crawl on a busy machine.
torch.set_num_threads(1)

TOKENIZER_FILE = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 512,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class RandomCheckpoint:
    """A checkpoint on disk and the plain weights that it stands for (dequantized, HF names)."""

    directory: Path
    config: dict[str, Any]
    dense: dict[str, torch.Tensor]


MakeMixtral = Callable[..., RandomCheckpoint]


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(TOKENIZER_FILE, directory / "tokenizer.model")
    return directory


@pytest.fixture(scope="session")
def make_mixtral(tmp_path_factory: pytest.TempPathFactory) -> MakeMixtral:
    """Write a random Mixtral: ``make_mixtral(seed=0, dtype=torch.float32, group_size=None, shards=1, **config)``.

    A ``group_size`` makes it an AWQ checkpoint.
    """

    def make(
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        group_size: int | None = None,
        shards: int = 1,
        **overrides: Any,
    ) -> RandomCheckpoint:
        config = {**CONFIG, "torch_dtype": str(dtype).removeprefix("torch."), **overrides}
        directory = tmp_path_factory.mktemp("mixtral")
        dense = _random_weights(config, dtype, seed)
        stored = dict(dense)
        if group_size is not None:
            config["quantization_config"] = {
                "quant_method": "awq",
                "bits": 4,
                "group_size": group_size,
                "zero_point": True,
                "version": "gemm",
            }
            _quantize(stored, dense, group_size)
        (directory / "config.json").write_text(json.dumps(config))
        _save(directory, stored, shards)
        shutil.copy(TOKENIZER_FILE, directory / "tokenizer.model")
        return RandomCheckpoint(directory, config, dense)

    return make


def _random_weights(config: dict[str, Any], dtype: torch.dtype, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    num_q, num_kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * columns**-0.5).to(dtype)

    def norm() -> torch.Tensor:
        return (1 + 0.1 * torch.randn(hidden, generator=generator)).to(dtype)

    weights = {"model.embed_tokens.weight": torch.randn(config["vocab_size"], hidden, generator=generator).to(dtype)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        weights[f"{prefix}.input_layernorm.weight"] = norm()
        weights[f"{prefix}.post_attention_layernorm.weight"] = norm()
        for name, rows, columns in (
            ("q", num_q, hidden),
            ("k", num_kv, hidden),
            ("v", num_kv, hidden),
            ("o", hidden, num_q),
        ):
            weights[f"{prefix}.self_attn.{name}_proj.weight"] = matrix(rows, columns)
        weights[f"{prefix}.block_sparse_moe.gate.weight"] = matrix(config["num_local_experts"], hidden)
        for expert in range(config["num_local_experts"]):
            for name, rows, columns in (("w1", inner, hidden), ("w3", inner, hidden), ("w2", hidden, inner)):
                weights[f"{prefix}.block_sparse_moe.experts.{expert}.{name}.weight"] = matrix(rows, columns)
    weights["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    return weights


def _quantize(stored: dict[str, torch.Tensor], dense: dict[str, torch.Tensor], group_size: int) -> None:
    """Replace the matrices that AWQ quantizes by packed ones, and their plain values by what the packed ones mean."""
    for name in [name for name in stored if "_proj." in name or ".experts." in name]:
        weight = round_to_nearest(stored.pop(name), 4, group_size)
        prefix = name.removesuffix(".weight")
        stored.update({f"{prefix}.{part}": tensor for part, tensor in vars(awq.pack(weight)).items()})
        dense[name] = dequantize(weight, dense[name].dtype)


def _save(directory: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, directory / "model.safetensors")
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard::shards]
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map.update(dict.fromkeys(part, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
