"""What the families have in common: a decoder with grouped-query attention, rotary embedding and SwiGLU experts.

Knows HF's keys and names for it; a family adds its own and replaces what it does otherwise.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertmesh.architectures.dialects import Place, Places, gate_half, one_expert, up_half
from expertmesh.architectures.key_rules import KeyRules, honoured, nothing, refused
from expertmesh.architectures.keys import Keys
from expertmesh.architectures.model_config import GateRule, ModelConfig
from expertmesh.architectures.rope import read_rope
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
# Names of HF since its second family with experts.
EXPERT_TENSORS: Rows = {
    "gate": Row("model.layers.{layer}.mlp.gate", ("E", "D")),
    "w_gate": Row("model.layers.{layer}.mlp.experts.{expert}.gate_proj", ("F", "D")),
    "w_down": Row("model.layers.{layer}.mlp.experts.{expert}.down_proj", ("D", "F")),
    "w_up": Row("model.layers.{layer}.mlp.experts.{expert}.up_proj", ("F", "D")),
}
# The same in one piece: gate_up_proj [E, 2 F, D] and down_proj [E, D, F].
FUSED: Places = {
    "w_gate": Place("model.layers.{layer}.mlp.experts.gate_up_proj", gate_half),
    "w_down": Place("model.layers.{layer}.mlp.experts.down_proj", one_expert),
    "w_up": Place("model.layers.{layer}.mlp.experts.gate_up_proj", up_half),
}

KEYS: KeyRules = (
    honoured(
        "architectures",
        "model_type",
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "max_position_embeddings",
        "original_max_position_embeddings",
        "tie_word_embeddings",
        "eos_token_id",
        "quantization_config",
    ),
    honoured("rope_parameters", "rope_scaling", but="; two that differ are refused"),
    honoured("rope_theta", but=", where these have none"),
    refused("", "hidden_act", unless=("silu",)),
    refused("the files say which matrices have one", "attention_bias", "mlp_bias", unless=(False,)),
    refused("all features of a head are rotated", "partial_rotary_factor", unless=(1,)),
    refused("all layers attend alike", "layer_types"),
    refused("quantized by a tool whose format is not read", "quantization", "compression_config"),
    refused("", "is_encoder_decoder", "add_cross_attention", unless=(False,)),
    refused("", "pruned_heads", unless=({},)),
    nothing("they are about training", "attention_dropout", "initializer_range", "pretraining_tp"),
    nothing(
        "the tokenizer says it",
        "bos_token_id",
        "pad_token_id",
        "unk_token_id",
        "sep_token_id",
        "tokenizer_class",
    ),
    honoured(
        "dtype",
        "torch_dtype",
        but=": what fp8, nf4 and fp4 are unpacked to; else weights are read as their files have them, and `--dtype` "
        "says what is computed in",
    ),
    honoured("_name_or_path", but=" as a name of the model, where it is of the form ORG/NAME"),
    nothing(
        "they are about the program that wrote the file, or how another one runs",
        "transformers_version",
        "auto_map",
        "use_cache",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "chunk_size_feed_forward",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "is_decoder",
        "torchscript",
        "id2label",
        "label2id",
        "problem_type",
    ),
)
EXPERT_KEYS: KeyRules = (
    honoured("num_experts_per_tok"),
    honoured("num_local_experts", "num_experts", but="; two that differ are refused"),
    nothing("they are about training", "output_router_logits", "router_aux_loss_coef"),
)
# What a key means that is not there.
DEFAULTS: Mapping[str, Any] = {"hidden_act": "silu", "tie_word_embeddings": False}
# float32 tells no positions beyond apart.
MAX_POSITIONS = 2**24


def read_decoder(keys: Keys, architecture: str, ffn_width: str = "intermediate_size") -> ModelConfig:
    """Read a decoder with a single FFN, whose width a key says, and where tokens attend to all before them."""
    hidden_size, num_heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    num_kv_heads = keys.count("num_key_value_heads", num_heads)
    head_dim = keys.count("head_dim", max(1, hidden_size // num_heads))
    if num_heads % num_kv_heads:
        heads = keys.name("num_attention_heads")
        raise keys.wrong("num_key_value_heads", f"what divides {heads}, {num_heads},")
    if head_dim % 2:
        raise keys.wrong("head_dim", f"an even number, unlike {head_dim},")
    vocab_size = keys.count("vocab_size")
    max_positions = keys.count("max_position_embeddings", most=MAX_POSITIONS)
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=keys.count(ffn_width),
        num_layers=keys.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        num_experts=1,
        num_experts_per_token=1,
        rms_norm_eps=keys.number("rms_norm_eps"),
        rope=read_rope(keys, max_positions),
        max_position_embeddings=max_positions,
        is_embedding_tied=keys.flag("tie_word_embeddings", False),
        eos_token_ids=keys.token_ids("eos_token_id", vocab_size),
        gate=GateRule.ONLY_EXPERT,
    )


def with_window(keys: Keys, decoder: ModelConfig) -> ModelConfig:
    """Let tokens of ``decoder`` attend to the last ``sliding_window`` only, where that key is there."""
    return replace(decoder, sliding_window=keys.count("sliding_window") if "sliding_window" in keys else None)


def with_experts(keys: Keys, decoder: ModelConfig, gate: GateRule) -> ModelConfig:
    """Give ``decoder`` several experts, to some of which the gate sends a token."""
    num_experts = keys.count(keys.one_of("num_local_experts", "num_experts"))
    num_chosen = keys.count("num_experts_per_tok")
    if num_chosen > num_experts:
        raise keys.wrong("num_experts_per_tok", f"no more than there are experts, {num_experts},")
    return replace(decoder, num_experts=num_experts, num_experts_per_token=num_chosen, gate=gate)


def read_gate_rule(keys: Keys) -> GateRule:
    """Read whether weights of the chosen experts add up to 1."""
    return GateRule.RENORMALISED if keys.flag("norm_topk_prob", False) else GateRule.PROBABILITIES
