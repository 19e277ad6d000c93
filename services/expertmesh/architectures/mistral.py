"""Mistral, dense: its only FFN is the only expert. Attention may have a sliding window."""

from collections.abc import Mapping
from typing import Any

from expertmesh.architectures import base
from expertmesh.architectures.architecture import Architecture
from expertmesh.architectures.dialects import Place, Places, all_places, hf_places
from expertmesh.architectures.key_rules import KeyRules, honoured
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import ModelConfig
from expertmesh.architectures.tensor_table import Row, Rows

NAME = "MistralForCausalLM"
KEYS: KeyRules = (*base.KEYS, honoured("intermediate_size", "sliding_window"))
DEFAULTS: Mapping[str, Any] = {
    **base.DEFAULTS,
    "num_key_value_heads": 8,
    "eos_token_id": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "sliding_window": 4096,
}

TENSORS: Rows = {
    **base.TENSORS,
    "w_gate": Row("model.layers.{layer}.mlp.gate_proj", ("F", "D")),
    "w_down": Row("model.layers.{layer}.mlp.down_proj", ("D", "F")),
    "w_up": Row("model.layers.{layer}.mlp.up_proj", ("F", "D")),
}
# What Mistral AI's own releases, dense or not, call the tensors outside the FFN.
RELEASED: Places = {
    "embedding": Place("tok_embeddings"),
    "final_norm": Place("norm"),
    "head": Place("output"),
    "input_norm": Place("layers.{layer}.attention_norm"),
    "expert_norm": Place("layers.{layer}.ffn_norm"),
    "q": Place("layers.{layer}.attention.wq", has_rotary_pairs=True),
    "k": Place("layers.{layer}.attention.wk", has_rotary_pairs=True),
    "v": Place("layers.{layer}.attention.wv"),
    "o": Place("layers.{layer}.attention.wo"),
}
RELEASED_DENSE: Places = {
    **RELEASED,
    "w_gate": Place("layers.{layer}.feed_forward.w1"),
    "w_down": Place("layers.{layer}.feed_forward.w2"),
    "w_up": Place("layers.{layer}.feed_forward.w3"),
}
# llama.cpp's: outside the FFN, and there
GGUF: Places = {
    "embedding": Place("token_embd"),
    "final_norm": Place("output_norm"),
    "head": Place("output"),
    "input_norm": Place("blk.{layer}.attn_norm"),
    "expert_norm": Place("blk.{layer}.ffn_norm"),
    "q": Place("blk.{layer}.attn_q", has_rotary_pairs=True),
    "k": Place("blk.{layer}.attn_k", has_rotary_pairs=True),
    "v": Place("blk.{layer}.attn_v"),
    "o": Place("blk.{layer}.attn_output"),
}
GGUF_DENSE: Places = {
    **GGUF,
    "w_gate": Place("blk.{layer}.ffn_gate"),
    "w_down": Place("blk.{layer}.ffn_down"),
    "w_up": Place("blk.{layer}.ffn_up"),
}


def read_config(keys: Keys) -> ModelConfig:
    """Read a config.json."""
    return base.with_window(keys, base.read_decoder(keys, NAME))


MISTRAL = Architecture(
    NAME, "mistral", KEYS, DEFAULTS, read_config, TENSORS, all_places(hf_places(TENSORS), RELEASED_DENSE, GGUF_DENSE)
)
