"""Writing the trained model as checkpoints. Knows file formats, not training."""

import json
from pathlib import Path
from typing import Any

import torch
from model import TinyConfig
from safetensors.torch import save_file

from expertmesh.kernels import awq
from expertmesh.kernels.quantize import round_to_nearest


def export_bf16(directory: Path, config: TinyConfig, state: dict[str, torch.Tensor]) -> None:
    """Write HF safetensors in bfloat16."""
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    _write(directory, _config_json(config), tensors)


def export_awq(directory: Path, config: TinyConfig, state: dict[str, torch.Tensor]) -> None:
    """Write AWQ 4-bit: attention and experts rounded to nearest and packed, the rest in bfloat16."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if "_proj." in name or ".experts." in name:
            packed = awq.pack(round_to_nearest(tensor, 4, config.group_size))
            tensors |= {f"{name.removesuffix('.weight')}.{part}": value for part, value in packed.as_dict().items()}
        else:
            tensors[name] = tensor.to(torch.bfloat16)
    quantization = {"quant_method": "awq", "bits": 4, "group_size": config.group_size, "zero_point": True}
    _write(directory, {**_config_json(config), "quantization_config": {**quantization, "version": "gemm"}}, tensors)


def _write(directory: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}) + "\n")


def _config_json(config: TinyConfig) -> dict[str, Any]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "num_local_experts": config.num_experts,
        "num_experts_per_tok": config.num_chosen,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_positions,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
