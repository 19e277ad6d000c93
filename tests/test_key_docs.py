"""The table of keys in docs/checkpoints.md is what the code does with them."""

from pathlib import Path

from expertmesh.architectures import base, gguf_metadata, mistral, mistral_params, mixtral, olmoe, qwen3_moe
from expertmesh.architectures.key_rules import KeyRule, KeyRules
from expertmesh.checkpoint import auto_round, bitsandbytes, compressed_tensors, fp8
from expertmesh.checkpoint.quantization import AWQ_KEYS, BOTH, GPTQ_KEYS, HOW, MODULE_KEYS
from expertmesh.gateway import generation_config
from expertmesh.text import gguf_tokens

DOCUMENT = Path(__file__).parents[1] / "docs" / "checkpoints.md"
HEADER = "| in | keys | what becomes of them |\n| --- | --- | --- |\n"
TABLES: dict[str, tuple[KeyRules, KeyRules]] = {
    "config.json": (base.KEYS, ()),
    "models' with experts": (base.EXPERT_KEYS, ()),
    "Mixtral's": (mixtral.KEYS, base.KEYS + base.EXPERT_KEYS),
    "dense Mistral's": (mistral.KEYS, base.KEYS),
    "Qwen3-MoE's": (qwen3_moe.KEYS, base.KEYS + base.EXPERT_KEYS),
    "OLMoE's": (olmoe.KEYS, base.KEYS + base.EXPERT_KEYS),
    "params.json": (mistral_params.KEYS, ()),
    "`moe` in params.json": (mistral_params.MOE_KEYS, ()),
    "`llama.` in GGUF": (gguf_metadata.KEYS, ()),
    "`tokenizer.` in GGUF": (gguf_tokens.KEYS, ()),
    "AWQ's and GPTQ's": (BOTH, ()),
    "AWQ's": (AWQ_KEYS, BOTH),
    "GPTQ's": (GPTQ_KEYS, BOTH),
    "each module of their `dynamic`": (MODULE_KEYS, (HOW,)),
    "AutoRound's": (auto_round.KEYS, ()),
    "each module of its `extra_config`": (auto_round.MODULE_KEYS, auto_round.SHARED),
    "compressed-tensors'": (compressed_tensors.KEYS, ()),
    "its `sparsity_config`": (compressed_tensors.SPARSITY_KEYS, ()),
    "each of its `config_groups`": (compressed_tensors.GROUP_KEYS, ()),
    "`weights` of these": (compressed_tensors.WEIGHTS_KEYS, ()),
    "FP8's": (fp8.KEYS, ()),
    "bitsandbytes'": (bitsandbytes.KEYS, ()),
    "generation_config.json": (generation_config.KEYS, ()),
}


def in_words(rule: KeyRule) -> str:
    if rule.allowed is None:
        return rule.effect
    unless = f" unless {rule.allowed_in_words}" if rule.allowed else ""
    return f"refused{unless}" + (f": {rule.effect}" if rule.effect else "")


def rows() -> list[str]:
    return [
        f"| {where} | {', '.join(f'`{key}`' for key in rule.keys)} | {in_words(rule)} |\n"
        for where, (rules, told) in TABLES.items()
        for rule in rules
        if rule not in told
    ]


def test_the_document_has_every_rule():
    assert HEADER + "".join(rows()) in DOCUMENT.read_text()
