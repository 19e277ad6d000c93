"""What the published checkpoints say of themselves."""

from pathlib import Path
from typing import Any

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
