"""What the families have in common: a decoder with grouped-query attention, rotary embedding and SwiGLU.

Knows HF's keys and names for it; a family adds its own and replaces what it does otherwise.
"""

from dataclasses import replace

from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.architectures.tensor_table import Row, Rows

TENSORS: Rows = {
    "embedding": Row("model.embed_tokens", ("V", "D")),
    "final_norm": Row("model.norm", ("D",)),
    "head": Row("lm_head", ("V", "D")),
    "input_norm": Row("model.layers.{layer}.input_layernorm", ("D",)),
    "expert_norm": Row("model.layers.{layer}.post_attention_layernorm", ("D",)),
    "q": Row("model.layers.{layer}.self_attn.q_proj", ("Hd", "D")),
    "k": Row("model.layers.{layer}.self_attn.k_proj", ("Kd", "D")),
    "v": Row("model.layers.{layer}.self_attn.v_proj", ("Kd", "D")),
    "o": Row("model.layers.{layer}.self_attn.o_proj", ("D", "Hd")),
}


def read_decoder(keys: Keys, architecture: str) -> ModelConfig:
    """Read a decoder with a single FFN, which attends to all tokens."""
    keys.require("hidden_act", "silu")
    hidden_size, num_heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    num_kv_heads = keys.count("num_key_value_heads", num_heads)
    head_dim = keys.count("head_dim", hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise keys.error(f"{num_heads} attention heads cannot share {num_kv_heads} key-value heads evenly")
    if head_dim % 2:
        raise keys.error(f"head_dim is {head_dim}; rotary embedding needs an even number")
    return ModelConfig(
        architecture=architecture,
        vocab_size=keys.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=keys.count("intermediate_size"),
        num_layers=keys.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_experts=1,
        num_experts_per_token=1,
        rms_norm_eps=keys.number("rms_norm_eps", 1e-5),
        rope_theta=_read_rope_theta(keys),
        max_position_embeddings=keys.count("max_position_embeddings"),
        is_embedding_tied=keys.flag("tie_word_embeddings", False),
        eos_token_ids=keys.token_ids("eos_token_id"),
        gate=GateRule.ONLY_EXPERT,
    )


def with_experts(keys: Keys, decoder: ModelConfig, num_experts: int, gate: GateRule) -> ModelConfig:
    """Give ``decoder`` several experts, to some of which the gate sends a token."""
    num_chosen = keys.count("num_experts_per_tok")
    if num_chosen > num_experts:
        raise keys.error(f"num_experts_per_tok is {num_chosen} of only {num_experts} experts")
    return replace(decoder, num_experts=num_experts, num_experts_per_token=num_chosen, gate=gate)


def _read_rope_theta(keys: Keys) -> float:
    """Read the base of the rotary embedding where older or newer files keep it; only the plain kind is supported."""
    rope = keys.section("rope_parameters", "rope_scaling")
    rope.require("rope_type", "default")
    rope.require("type", "default")
    return (rope if "rope_theta" in rope else keys).number("rope_theta", 1e6)
