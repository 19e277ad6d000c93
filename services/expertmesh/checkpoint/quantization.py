"""How a checkpoint says that its weights are quantized. Knows keys and their synonyms, not tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertmesh.architectures.jsonfile import read_json
from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing, refused
from expertmesh.architectures.keys import Keys
from expertmesh.checkpoint import auto_round, bitsandbytes, compressed_tensors, fp8
from expertmesh.checkpoint.codes import SUPPORTED, AwqConfig, GptqConfig, QuantizationConfig, mix
from expertmesh.checkpoint.overrides import read_group_size, read_override
from expertmesh.kernels.formats import AWQ_BITS, GPTQ_BITS, GptqFormat

# Beside config.json, older tools left a file of their own; it does not name the method, its name does.
OWN_FILES = {"quant_config.json": "awq", "quantize_config.json": "gptq", "hf_quant_config.json": "modelopt"}
# Before the pattern of modules that ``dynamic`` leaves plain.
EXCLUDED = "-:"
# Those that have a module of their own here.
OTHER_METHODS = {
    "auto-round": auto_round.parse,
    "bitsandbytes": bitsandbytes.parse,
    "compressed-tensors": compressed_tensors.parse,
    "fp8": fp8.parse,
}
GPTQ_FORMATS = {"gptq": False, "gptq_v2": True}
HOW = nothing(
    "they are about how it was quantized",
    "act_group_aware",
    "damp_percent",
    "damp_auto_increment",
    "true_sequential",
    "static_groups",
    "dataset",
    "tokenizer",
    "model_seqlen",
    "batch_size",
    "pad_token_id",
    "module_name_preceding_first_block",
    "mse",
    "meta",
    "provider",
    "autoround_version",
    "enable_quanted_input",
    "iters",
    "nsamples",
    "seqlen",
)
BOTH: KeyRules = (
    refused("codes are packed into 32 bits", "pack_dtype", unless=("int32",)),
    honoured("dynamic", but=": bits and groups of some modules, and which are left plain"),
    refused("", "data_type", unless=("int",)),
    refused("nothing is added to the weights, nor are they rotated", "adapter", "rotation"),
    nothing(
        "the files say which matrices are quantized",
        "modules_to_not_convert",
        "modules_in_block_to_quantize",
        "block_name_to_quantize",
        "to_quant_block_names",
        "lm_head",
    ),
    nothing(
        "they are about how another program runs",
        "backend",
        "do_fuse",
        "fuse_max_seq_len",
        "modules_to_fuse",
        "use_exllama",
        "disable_exllama",
        "exllama_config",
        "use_cuda_fp16",
        "cache_block_outputs",
        "max_input_length",
        "model_file_base_name",
        "model_name_or_path",
    ),
    HOW,
)
AWQ_KEYS: KeyRules = (
    honoured("quant_method", "zero_point"),
    honoured("bits", "w_bit", but="; two that differ are refused"),
    honoured("group_size", "q_group_size", but="; two that differ are refused"),
    honoured("version", "checkpoint_format", "format", but="; two that differ are refused"),
    refused("AWQ knows no order", "desc_act", unless=(False,)),
    nothing("`zero_point` says it", "sym"),
    *BOTH,
)
GPTQ_KEYS: KeyRules = (
    honoured("quant_method", "bits", "group_size", "desc_act", "sym"),
    honoured("checkpoint_format", "format", but="; two that differ are refused"),
    refused("of layouts only gptq and gptq_v2 are read", "is_marlin_format", unless=(False,)),
    *BOTH,
)
# Of a module in ``dynamic``
MODULE_KEYS: KeyRules = (
    honoured("bits", "group_size"),
    honoured("sym", but=", where it is the same for all modules"),
    refused("nothing is added to the weights, nor are they rotated", "adapter", "rotation"),
    nothing("`g_idx` says it", "desc_act"),
    HOW,
)


def read_quantization(directory: Path, config: Mapping[str, Any]) -> QuantizationConfig | None:
    """Read the quantization from config.json or the quantizer's own file; None for plain weights.

    CheckpointError names the file, the method, what was found and what is supported.
    """
    file = Keys(config, directory / "config.json")
    if "quantization_config" in file:
        return _parse(file.section("quantization_config"))
    for name, method in OWN_FILES.items():
        if (directory / name).exists():
            return _parse(Keys({"quant_method": method, **read_json(directory / name)}, directory / name))
    return None


def _parse(keys: Keys) -> QuantizationConfig:
    method = keys.word("quant_method", "bitsandbytes" if "load_in_4bit" in keys or "load_in_8bit" in keys else "")
    if method == "awq":
        return _parse_awq(keys)
    if method == "gptq":
        return _parse_gptq(keys)
    if method in OTHER_METHODS:
        return OTHER_METHODS[method](keys)
    if not method:
        raise keys.wrong("quant_method", ", ".join(("awq", "gptq", *OTHER_METHODS)))
    raise keys.error(f"quantization {method} is not supported; supported: {SUPPORTED}")


def _parse_awq(keys: Keys) -> QuantizationConfig:
    check_keys(keys, AWQ_KEYS)
    bits, version = keys.one_of("bits", "w_bit"), keys.one_of("version", "checkpoint_format", "format")
    if keys.count(bits) != AWQ_BITS or keys.word(version, "gemm") != "gemm":
        raise _unsupported(keys, "awq", bits, keys.word(version, "gemm"))
    group_size = read_group_size(keys, keys.one_of("group_size", "q_group_size"))
    return _mix(AwqConfig(group_size, has_zero_points=keys.flag("zero_point", True)), keys)


def _parse_gptq(keys: Keys) -> QuantizationConfig:
    check_keys(keys, GPTQ_KEYS)
    layout = keys.word(keys.one_of("checkpoint_format", "format"), "gptq")
    if keys.count("bits") not in GPTQ_BITS or layout not in GPTQ_FORMATS:
        raise _unsupported(keys, "gptq", "bits", layout)
    stored = GptqFormat(keys.count("bits"), keys.flag("sym", True), GPTQ_FORMATS[layout])
    return _mix(GptqConfig(stored, read_group_size(keys, "group_size"), keys.flag("desc_act", False)), keys)


def _mix(whole: AwqConfig | GptqConfig, keys: Keys) -> QuantizationConfig:
    """Add what ``dynamic`` says of single modules, unless it excludes them."""
    modules = keys.section("dynamic")
    quantized = [modules.section(name) for name in modules if not name.startswith(EXCLUDED)]
    for module in quantized:
        check_keys(module, MODULE_KEYS)
        if module.flag("sym", keys.flag("sym", True)) != keys.flag("sym", True):
            raise module.unsupported("sym", "files do not tell which modules have it", "the same for all")
    return mix([whole, *(read_override(whole, module) for module in quantized)])


def _unsupported(keys: Keys, method: str, bits: str, layout: str) -> Exception:
    return keys.error(f"quantization {method} {keys.get(bits)}-bit {layout} is not supported; supported: {SUPPORTED}")
