"""What the configuration of 8-bit floats says, as vLLM, AutoFP8 and transformers write it. Knows keys, not tensors."""

from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, not_done, nothing, refused
from expertmesh.architectures.keys import Keys
from expertmesh.checkpoint.codes import QuantizationConfig, ScaledConfig, mix
from expertmesh.checkpoint.layouts import FLOATS, SCALED_INVERSELY_LAYOUT, SCALED_LAYOUT
from expertmesh.checkpoint.overrides import read_block
from expertmesh.kernels.formats import Block

KEYS: KeyRules = (
    honoured("quant_method"),
    honoured("weight_block_size", but=": outputs and inputs that share a scale; without it, a matrix has one"),
    refused("", "fmt", unless=("e4m3",)),
    refused("", "scale_fmt", unless=("float",)),
    refused("", "expert_dtype", unless=("fp8",)),
    not_done("what goes into matrices is not quantized", "activation_scheme"),
    not_done("keys and values are kept as they are computed", "kv_cache_scheme"),
    nothing(
        "the files say which matrices are quantized", "modules_to_not_convert", "ignored_layers", "modules_to_convert"
    ),
    nothing("they are about how another program runs", "dequantize"),
)
WHOLE_MATRIX = Block(-1, -1)


def parse(keys: Keys) -> QuantizationConfig:
    """Read the section; CheckpointError names the key and what is supported."""
    check_keys(keys, KEYS)
    block = read_block(keys, "weight_block_size") if "weight_block_size" in keys else WHOLE_MATRIX
    # Tools differ in what they call scales, but not in what these are.
    return mix(ScaledConfig("fp8", layout, FLOATS, block) for layout in (SCALED_INVERSELY_LAYOUT, SCALED_LAYOUT))
