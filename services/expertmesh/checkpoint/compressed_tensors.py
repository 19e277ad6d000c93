"""What the configuration of compressed-tensors says, as llm-compressor writes it. Knows keys, not tensors."""

from expertmesh.architectures.key_rules import KeyRules, check_keys, honoured, not_done, nothing, refused
from expertmesh.architectures.keys import Keys, is_int
from expertmesh.checkpoint.codes import (
    SUPPORTED,
    PackQuantizedConfig,
    QuantizationConfig,
    ScaledConfig,
    mix,
)
from expertmesh.checkpoint.layouts import FLOATS, INTEGERS, SCALED_LAYOUT
from expertmesh.checkpoint.overrides import read_block
from expertmesh.kernels.formats import PACK_QUANTIZED_BITS, Block

PACKED, MIXED = "pack-quantized", "mixed-precision"
# Which types of numbers the formats have that do not pack them.
SCALED = {"float-quantized": ("float",), "int-quantized": ("int",), "naive-quantized": ("float", "int")}
FORMATS = (PACKED, *SCALED)
KEYS: KeyRules = (
    honoured("quant_method", "config_groups"),
    refused("", "format", unless=(*FORMATS, MIXED)),
    not_done("keys and values are kept as they are computed", "kv_cache_scheme"),
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
    refused("", "format", unless=FORMATS),
    not_done("what goes into and out of matrices is not quantized", "input_activations", "output_activations"),
    nothing("the files say which matrices are quantized", "targets"),
)
WEIGHTS_KEYS: KeyRules = (
    honoured("num_bits", "type", "symmetric"),
    honoured(
        "strategy",
        "group_size",
        "block_structure",
        but=": group with a size, or channel; where codes are not packed, also block or tensor",
    ),
    honoured("actorder", but=": group is an order of the inputs, weight none"),
    refused("", "dynamic", unless=(False,)),
    nothing("the files say it", "scale_dtype", "zp_dtype"),
    nothing("they are about how it was quantized", "observer", "observer_kwargs"),
)
PACKED_STRATEGIES = ("group", "channel")
STRATEGIES = (*PACKED_STRATEGIES, "block", "tensor")
# What each word for an order means: whether groups are of inputs that lie apart.
ORDERS = {"weight": False, "static": False, "group": True, "dynamic": True}


def parse(keys: Keys) -> QuantizationConfig:
    """Read the section; CheckpointError names the key and what is supported."""
    check_keys(keys, KEYS)
    check_keys(keys.section("sparsity_config"), SPARSITY_KEYS)
    groups, layout = keys.section("config_groups"), keys.word("format", PACKED)
    kinds = [_parse_group(groups.section(name), layout) for name in groups]
    if not kinds:
        raise keys.wrong("config_groups", "an object that says how weights are quantized")
    # Where some matrices have zero points and others none, they are told apart by having them.
    kinds.sort(key=lambda kind: (not kind.has_zero_points, not kind.is_ordered))
    return mix(kinds)


def _parse_group(keys: Keys, layout: str) -> PackQuantizedConfig | ScaledConfig:
    """Read how some matrices are stored: in ``layout``, unless they have one of their own."""
    check_keys(keys, GROUP_KEYS)
    layout = keys.word("format", layout)
    if layout == MIXED:
        raise keys.wrong("format", " or ".join(FORMATS))
    weights = keys.section("weights")
    check_keys(weights, WEIGHTS_KEYS)
    return _parse_packed(weights) if layout == PACKED else _parse_scaled(weights, layout)


def _parse_packed(keys: Keys) -> PackQuantizedConfig:
    bits = keys.count("num_bits")
    if keys.word("type", "int") != "int":
        raise keys.unsupported("type", PACKED, "int")
    if bits not in PACK_QUANTIZED_BITS:
        raise keys.error(f"quantization compressed-tensors {bits}-bit is not supported; supported: {SUPPORTED}")
    size = _read_block(keys, PACKED_STRATEGIES, default="group").num_in
    return PackQuantizedConfig(bits, size, not keys.flag("symmetric", True), is_ordered=_read_order(keys))


def _parse_scaled(keys: Keys, layout: str) -> ScaledConfig:
    number, bits, is_symmetric = keys.word("type", "int"), keys.count("num_bits"), keys.flag("symmetric", True)
    if number not in SCALED[layout]:
        raise keys.unsupported("type", layout, " or ".join(SCALED[layout]))
    if bits > 8 or (number == "float" and bits != 8):
        raise keys.unsupported("num_bits", "", "8, or fewer of integers")
    if number == "float" and not is_symmetric:
        raise keys.unsupported("symmetric", "floating-point numbers have no zero points", "true")
    if _read_order(keys):
        raise keys.unsupported("actorder", f"{layout} has no order of inputs", "weight")
    name, dtype = (f"fp{bits}", FLOATS) if number == "float" else (f"int{bits}", INTEGERS)
    block = _read_block(keys, STRATEGIES, default="tensor")
    return ScaledConfig(f"compressed-tensors {name}", SCALED_LAYOUT, dtype, block, not is_symmetric)


def _read_block(keys: Keys, strategies: tuple[str, ...], default: str) -> Block:
    """Return what shares a scale; without a ``strategy``, the size of groups says which it is."""
    size = keys.get("group_size")
    strategy = keys.word("strategy", default if size is None else "channel" if size == -1 else "group")
    if strategy not in strategies:
        raise keys.unsupported("strategy", "", " or ".join(strategies))
    if strategy != "block" and "block_structure" in keys:
        raise keys.unsupported("block_structure", f"strategy {strategy}", "leaving it out")
    if strategy == "block":
        return read_block(keys, "block_structure")
    if strategy == "group" and (not is_int(size) or size < 1):
        raise keys.wrong("group_size", "a positive integer")
    return Block(-1 if strategy == "tensor" else 1, size if strategy == "group" else -1)


def _read_order(keys: Keys) -> bool:
    if isinstance(keys.get("actorder"), bool):
        return keys.flag("actorder", False)
    order = keys.word("actorder", "weight")
    if order not in ORDERS:
        raise keys.unsupported("actorder", "", " or ".join(ORDERS))
    return ORDERS[order]
