"""A checkpoint in HF's names for Mixtral, rewritten as other tools name, fuse and file it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from checkpoints import RandomCheckpoint, Tensors
from safetensors.torch import load_file, save_file

MISTRAL = [
    (r"^model\.embed_tokens\.", "tok_embeddings."),
    (r"^model\.norm\.", "norm."),
    (r"^lm_head\.", "output."),
    (r"^model\.layers\.", "layers."),
    (r"\.input_layernorm\.", ".attention_norm."),
    (r"\.post_attention_layernorm\.", ".ffn_norm."),
    (r"\.self_attn\.([qkvo])_proj\.", r".attention.w\1."),
]
PROJECTIONS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def newer_hf(made: RandomCheckpoint) -> None:
    """Name experts as newer tools do."""
    _save(made, {_newer(name): tensor for name, tensor in made.dense.items()})


def fused_hf(made: RandomCheckpoint) -> None:
    """Fuse the experts of a layer as newer tools do."""
    stored = {_newer(name): tensor for name, tensor in made.dense.items() if ".experts." not in name}
    for layer in range(made.config["num_hidden_layers"]):
        w1, w2, w3 = (_experts(made, layer, matrix) for matrix in ("w1", "w2", "w3"))
        stored[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.cat((w1, w3), dim=1)  # [E, 2 F, D]
        stored[f"model.layers.{layer}.mlp.experts.down_proj"] = w2  # [E, D, F]
    _save(made, stored)


def mixed_hf(made: RandomCheckpoint) -> None:
    """Name matrices as newer tools do, below what older ones call the experts, and the gate a router."""
    stored = {_newer(name).replace(".mlp.", ".block_sparse_moe."): tensor for name, tensor in made.dense.items()}
    _save(made, {name.replace("moe.gate.", "moe.router."): tensor for name, tensor in stored.items()})


def mistral(made: RandomCheckpoint) -> None:
    """Write what Mistral's own inference code reads."""
    stored = {_mistral(name, made.config): _pairs(name, tensor, made.config) for name, tensor in made.dense.items()}
    stored = {name.replace("block_sparse_moe", "feed_forward"): tensor for name, tensor in stored.items()}
    if made.config["model_type"] == "mistral":
        stored = {name.replace(".experts.0.", "."): tensor for name, tensor in stored.items() if ".gate." not in name}
    _remove(made.directory)
    save_file(stored, made.directory / "consolidated.safetensors")
    _write_params(made)


def mistral_stacked(made: RandomCheckpoint) -> None:
    """Write what the first release of Mixtral held: eight files of torch.save, experts stacked, w2 turned over."""
    dense, config = made.dense, made.config
    stored = {_mistral(n, config): _pairs(n, tensor, config) for n, tensor in dense.items() if ".experts." not in n}
    for layer in range(config["num_hidden_layers"]):
        for matrix in ("w1", "w2", "w3"):
            parts = _experts(made, layer, matrix)
            parts = parts.transpose(1, 2) if matrix == "w2" else parts  # [E, F, D]
            stored[f"layers.{layer}.block_sparse_moe.{matrix}"] = parts.flatten(0, 1).clone()
    _remove(made.directory)
    names = sorted(stored)
    for shard in range(8):
        part = {name: stored[name] for name in names[shard::8]}
        torch.save(part, made.directory / f"consolidated.{shard:02d}.pt")
    _write_params(made)


def paddle(made: RandomCheckpoint) -> None:
    """Write nineteen shards and the tokenizer under the name that PaddleNLP gives it."""
    _remove(made.directory)
    files = {name: f"model-{i % 19 + 1:05d}-of-00019.safetensors" for i, name in enumerate(made.dense)}
    for file in sorted(set(files.values())):
        save_file({n: t for n, t in made.dense.items() if files[n] == file}, made.directory / file)
    (made.directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (made.directory / "tokenizer.model").rename(made.directory / "sentencepiece.bpe.model")


def torch_bin(made: RandomCheckpoint) -> None:
    """Write two files of torch.save with an index."""
    _remove(made.directory)
    files = {name: f"pytorch_model-{i % 2 + 1:05d}-of-00002.bin" for i, name in enumerate(made.dense)}
    for file in set(files.values()):
        torch.save({n: t for n, t in made.dense.items() if files[n] == file}, made.directory / file)
    (made.directory / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))


def torch_bin_of_old(made: RandomCheckpoint) -> None:
    """Write two files in the format of torch before 1.6, without an index."""
    torch_bin(made)
    (made.directory / "pytorch_model.bin.index.json").unlink()
    for path in made.directory.glob("*.bin"):
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)


def mistral_pth(made: RandomCheckpoint) -> None:
    """Write what Mistral's own inference code reads, as one file of torch.save."""
    mistral(made)
    path = made.directory / "consolidated.safetensors"
    torch.save(load_file(path), made.directory / "consolidated.00.pth")
    path.unlink()


def _newer(name: str) -> str:
    name = name.replace(".block_sparse_moe.", ".mlp.")
    return re.sub(r"\.(w[123])\.weight$", lambda match: f".{PROJECTIONS[match[1]]}.weight", name)


def _experts(made: RandomCheckpoint, layer: int, matrix: str) -> torch.Tensor:
    prefix = f"model.layers.{layer}.block_sparse_moe.experts"
    experts = range(made.config["num_local_experts"])
    return torch.stack([made.dense[f"{prefix}.{expert}.{matrix}.weight"] for expert in experts])


def _mistral(name: str, config: dict[str, Any]) -> str:
    for pattern, replacement in MISTRAL:
        name = re.sub(pattern, replacement, name)
    return name


def _pairs(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Turn the halves of each rotary head into pairs, row by row."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    order = [start + i // 2 + (head // 2 if i % 2 else 0) for start in range(0, len(tensor), head) for i in range(head)]
    return tensor[order].clone()


def _save(made: RandomCheckpoint, stored: Tensors) -> None:
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, made.directory / "model.safetensors")


def _remove(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def _write_params(made: RandomCheckpoint) -> None:
    config = made.config
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "hidden_dim": config["intermediate_size"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "norm_eps": config["rms_norm_eps"],
        "vocab_size": config["vocab_size"],
        "rope_theta": config["rope_theta"],
        "sliding_window": config["sliding_window"],
    }
    if config["model_type"] == "mixtral":
        moe = {"num_experts": config["num_local_experts"], "num_experts_per_tok": config["num_experts_per_tok"]}
        params = {**params, "moe": moe}
    (made.directory / "params.json").write_text(json.dumps(params))
    (made.directory / "config.json").unlink()
