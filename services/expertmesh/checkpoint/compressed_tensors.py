"""What the configuration of compressed-tensors says, as llm-compressor writes it. Knows keys, not tensors."""

from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, nothing, refused
from expertmesh.architectures.keys import Keys, is_int
from expertmesh.checkpoint.codes import SUPPORTED, PackQuantizedConfig, QuantizationConfig, mix
from expertmesh.kernels.formats import PACK_QUANTIZED_BITS

FORMAT = "pack-quantized"
KEYS: KeyRules = (
    honoured("quant_method", "config_groups"),
    refused("", "format", unless=(FORMAT,)),
    refused("keys and values are kept as they are computed", "kv_cache_scheme"),
    refused("weights are not rotated", "transform_config", unless=({},)),
    honoured("sparsity_config", but=", of which only a `format` that is dense is known"),
    refused("all experts are there", "moe_sparsity_config"),
    nothing("the files say which matrices are quantized", "ignore", "quantization_status"),
    nothing("they are about the program that wrote it", "version", "global_compression_ratio", "run_compressed"),
)
SPARSITY_KEYS: KeyRules = (
    refused("all weights are stored", "format", unless=("dense",)),
    nothing(
        "they are about how it was pruned",
        "global_sparsity",
        "sparsity_structure",
        "registry_requires_subclass",
        "targets",
        "ignore",
    ),
)
GROUP_KEYS: KeyRules = (
    honoured("weights"),
    refused("", "format", unless=(FORMAT,)),
    refused("what goes into matrices is not quantized as files say", "input_activations", "output_activations"),
    nothing("the files say which matrices are quantized", "targets"),
)
WEIGHTS_KEYS: KeyRules = (
    honoured("num_bits", "symmetric"),
    honoured("strategy", "group_size", but=": group with a size, or channel"),
    honoured("actorder", but=": group is an order of the inputs, weight none"),
    refused("", "type", unless=("int",)),
    refused("", "dynamic", unless=(False,)),
    refused("blocks of several outputs share no scales", "block_structure"),
    nothing("the files say it", "scale_dtype", "zp_dtype"),
    nothing("they are about how it was quantized", "observer", "observer_kwargs"),
)
STRATEGIES = ("group", "channel")
# What each word for an order means: whether groups are of inputs that lie apart.
ORDERS = {"weight": False, "static": False, "group": True, "dynamic": True}


def parse(keys: Keys) -> QuantizationConfig:
    """Read the section; CheckpointError names the key and what is supported."""
    check_keys(keys, KEYS)
    check_keys(keys.section("sparsity_config"), SPARSITY_KEYS)
    groups = keys.section("config_groups")
    kinds = [_parse_group(groups.section(name)) for name in groups]
    if not kinds:
        raise keys.wrong("config_groups", "an object that says how weights are quantized")
    # Where some matrices have zero points and others none, they are told apart by having them.
    kinds.sort(key=lambda kind: (not kind.has_zero_points, not kind.is_ordered))
    return mix(kinds)


def _parse_group(keys: Keys) -> PackQuantizedConfig:
    check_keys(keys, GROUP_KEYS)
    weights = keys.section("weights")
    check_keys(weights, WEIGHTS_KEYS)
    bits = weights.count("num_bits")
    if bits not in PACK_QUANTIZED_BITS:
        raise weights.error(f"quantization compressed-tensors {bits}-bit is not supported; supported: {SUPPORTED}")
    return PackQuantizedConfig(
        bits, _read_group_size(weights), not weights.flag("symmetric", True), is_ordered=_read_order(weights)
    )


def _read_group_size(keys: Keys) -> int:
    """Return how many inputs share a scale, -1 = all; without a ``strategy``, the size says which it is."""
    size = keys.get("group_size")
    strategy = keys.word("strategy", "channel" if size == -1 else "group")
    if strategy not in STRATEGIES:
        raise keys.unsupported("strategy", "", " or ".join(STRATEGIES))
    if strategy == "channel":
        return -1
    if not is_int(size) or size < 1:
        raise keys.wrong("group_size", "a positive integer")
    return size


def _read_order(keys: Keys) -> bool:
    if isinstance(keys.get("actorder"), bool):
        return keys.flag("actorder", False)
    order = keys.word("actorder", "weight")
    if order not in ORDERS:
        raise keys.unsupported("actorder", "", " or ".join(ORDERS))
    return ORDERS[order]
