"""What AWQ's and GPTQ's configurations say of some modules otherwise than of the rest. Knows no method's keys.

Which matrices such a module is, is not asked: codes and scales show how many bits and which groups a matrix has.
"""

from dataclasses import replace

from expertmesh.architectures.keys import Keys, is_int
from expertmesh.checkpoint.codes import AwqConfig, GptqConfig
from expertmesh.kernels.formats import AWQ_BITS, GPTQ_BITS, Block


def read_override(base: AwqConfig | GptqConfig, keys: Keys) -> AwqConfig | GptqConfig:
    """Return ``base`` with the bits and groups of ``keys``; CheckpointError where these cannot be read."""
    bits, size = keys.count("bits", base.bits), read_group_size(keys, "group_size", base.group_size)
    allowed = (AWQ_BITS,) if isinstance(base, AwqConfig) else GPTQ_BITS
    if bits not in allowed:
        raise keys.unsupported("bits", "", ", ".join(map(str, allowed)))
    if isinstance(base, AwqConfig):
        return replace(base, group_size=size)
    return replace(base, format=replace(base.format, bits=bits), group_size=size)


def read_group_size(keys: Keys, key: str, default: int | None = None) -> int:
    """Read how many inputs share a scale, -1 = all of them."""
    value = keys.get(key) if key in keys else default
    if not is_int(value) or value == 0 or value < -1:
        raise keys.wrong(key, "a positive integer or -1")
    return value


def read_block(keys: Keys, key: str) -> Block:
    """Read how many outputs and inputs share a scale."""
    size = keys.get(key)
    if not isinstance(size, list) or len(size) != 2 or not all(is_int(value) and value > 0 for value in size):
        raise keys.wrong(key, "two positive integers, outputs and inputs,")
    return Block(*size)
