"""What the configuration of bitsandbytes says, as transformers writes it. Knows keys, not tensors."""

from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing
from expertmesh.architectures.keys import Keys
from expertmesh.checkpoint.codes import FourBitConfig, QuantizationConfig, ScaledConfig
from expertmesh.checkpoint.layouts import FOUR_BIT_LAYOUTS, INTEGERS, LLM_INT8_LAYOUT
from expertmesh.kernels.formats import Block

KEYS: KeyRules = (
    honoured("quant_method", "bnb_4bit_quant_type"),
    honoured("load_in_4bit", "_load_in_4bit", but="; two that differ are refused"),
    honoured("load_in_8bit", "_load_in_8bit", but="; two that differ are refused"),
    nothing("the files say it", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage"),
    nothing("the files say which matrices are quantized", "llm_int8_skip_modules", "llm_int8_has_fp16_weight"),
    nothing("what goes into matrices is not quantized", "llm_int8_threshold"),
    nothing("they are about how another program runs", "bnb_4bit_compute_dtype", "llm_int8_enable_fp32_cpu_offload"),
)


def parse(keys: Keys) -> QuantizationConfig:
    """Read the section; CheckpointError names the key and what is supported."""
    check_keys(keys, KEYS)
    four, eight = keys.one_of("load_in_4bit", "_load_in_4bit"), keys.one_of("load_in_8bit", "_load_in_8bit")
    if keys.flag(four, False) == keys.flag(eight, False):
        raise keys.wrong(four, f"true where {keys.name(eight)} is not, or the other way round,")
    if keys.flag(eight, False):
        return ScaledConfig("bitsandbytes int8", LLM_INT8_LAYOUT, INTEGERS, Block(1, -1))
    quant_type = keys.word("bnb_4bit_quant_type", "fp4")
    if quant_type not in FOUR_BIT_LAYOUTS:
        raise keys.unsupported("bnb_4bit_quant_type", "", " or ".join(FOUR_BIT_LAYOUTS))
    return FourBitConfig(quant_type)
