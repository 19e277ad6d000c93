"""What the published checkpoints say of themselves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertmesh.architectures.registry import read_model, tensors_of

FILE = Path("somewhere/config.json")
# Mixtral-8x7B, in its older form, with a window that it was trained without.
MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "eos_token_id": 2,
}
# Mistral-7B.
MISTRAL: dict[str, Any] = {
    **{key: value for key, value in MIXTRAL.items() if not key.startswith("num_local") and "per_tok" not in key},
    "architectures": ["MistralForCausalLM"],
    "rope_theta": 1e4,
}
# Mixtral-8x22B, as its v0.3 has it.
MIXTRAL_8X22B: dict[str, Any] = {
    **MIXTRAL,
    "vocab_size": 32768,
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "num_hidden_layers": 56,
    "num_attention_heads": 48,
    "max_position_embeddings": 65536,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
}
# Qwen3-30B-A3B.
QWEN3_MOE: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
# OLMoE-1B-7B.
OLMOE: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "attention_bias": False,
    "clip_qkv": None,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 50304,
}
PUBLISHED = {config["architectures"][0]: config for config in (MIXTRAL, MISTRAL, QWEN3_MOE, OLMOE)}


def write_headers(directory: Path, config: Mapping[str, Any]) -> Path:
    """Write a bfloat16 checkpoint of real size whose weights are a hole in its file: it takes no room on disk."""
    tensors, offset = {}, 0
    for spec in tensors_of(read_model(config, directory / "config.json")):
        end = offset + 2 * spec.num_values
        tensors[f"{spec.name}.weight"] = {"dtype": "BF16", "shape": spec.shape, "data_offsets": [offset, end]}
        offset = end
    header = json.dumps(tensors).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + offset)
    (directory / "config.json").write_text(json.dumps(config))
    return directory
