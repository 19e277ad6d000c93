"""What the configuration of AutoRound says, whose codes are packed as GPTQ's or AWQ's. Knows keys, not tensors."""

from collections.abc import Iterator

from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing, refused
from expertmesh.architectures.keys import Keys
from expertmesh.checkpoint.codes import AwqConfig, GptqConfig, QuantizationConfig, mix
from expertmesh.checkpoint.overrides import read_group_size, read_override
from expertmesh.kernels.formats import GptqFormat

# Of modules, and of the whole.
SHARED: KeyRules = (
    refused("", "data_type", unless=("int",)),
    refused("what goes into matrices is not quantized as files say", "act_bits", unless=(16,)),
    refused("scales are not quantized", "super_bits", "super_group_size"),
    refused("weights are not rotated", "rotation_config", "transform_config", unless=({},)),
    nothing(
        "they are about what is not quantized where `act_bits` is 16",
        "act_data_type",
        "act_group_size",
        "act_sym",
        "act_dynamic",
    ),
    nothing("the files say it", "scale_dtype"),
)
KEYS: KeyRules = (
    honoured("quant_method", "packing_format", "bits", "group_size", "sym", "extra_config"),
    *SHARED,
    refused("keys, values and attention are kept as they are computed", "static_kv_dtype", "static_attention_dtype"),
    nothing(
        "the files say which matrices are quantized",
        "block_name_to_quantize",
        "to_quant_block_names",
        "quant_block_list",
        "modules_to_not_convert",
        "quant_lm_head",
    ),
    nothing(
        "they are about how it was quantized",
        "autoround_version",
        "provider",
        "amp",
        "batch_size",
        "dataset",
        "enable_alg_ext",
        "enable_minmax_tuning",
        "enable_norm_bias_tuning",
        "enable_quanted_input",
        "gradient_accumulate_steps",
        "iters",
        "low_gpu_mem_usage",
        "lr",
        "minmax_lr",
        "nsamples",
        "seqlen",
    ),
    nothing("they are about how another program runs", "backend"),
)
MODULE_KEYS: KeyRules = (honoured("bits", "group_size", "sym"), *SHARED)
AWQ_PACKING = "auto_round:auto_awq"
# As which version of GPTQ's format zero points are stored: the second one has them as they are.
GPTQ_PACKINGS = {"auto_round:auto_gptq": False, "auto_round:gptqmodel": True, "auto_round": True}
# A module of so many bits stays plain.
PLAIN_BITS = 16


def parse(keys: Keys) -> QuantizationConfig:
    """Read the section; CheckpointError names the key, or the module and its key, and what is supported."""
    check_keys(keys, KEYS)
    packing = keys.word("packing_format", "")
    if packing not in (AWQ_PACKING, *GPTQ_PACKINGS):
        raise keys.unsupported("packing_format", "", " or ".join((AWQ_PACKING, *GPTQ_PACKINGS)))
    modules = list(_quantized_modules(keys))
    # Zero points are stored in any case, and how is known: where some modules have them, they are read of all.
    is_symmetric = all(each.flag("sym", True) for each in (keys, *modules))
    whole = _parse_whole(keys, packing, is_symmetric)
    return mix([whole, *(read_override(whole, module) for module in modules)])


def _quantized_modules(keys: Keys) -> Iterator[Keys]:
    """Yield what ``extra_config`` says of each module that is not left plain."""
    modules = keys.section("extra_config")
    for name in modules:
        module = modules.section(name)
        if module.count("bits", keys.count("bits")) < PLAIN_BITS:
            check_keys(module, MODULE_KEYS)
            yield module


def _parse_whole(keys: Keys, packing: str, is_symmetric: bool) -> AwqConfig | GptqConfig:
    size, bits = read_group_size(keys, "group_size"), keys.count("bits")
    if packing == AWQ_PACKING:
        return read_override(AwqConfig(size, has_zero_points=True), keys)
    return read_override(GptqConfig(GptqFormat(bits, is_symmetric, GPTQ_PACKINGS[packing]), size, False), keys)
