"""GPUs for experts: memory, speed, how many, at what price. Knows datasheets and how a user names them."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from expertmesh.errors import ConfigError

GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU by its makers' datasheet: bytes, bytes/s, dense 16-bit operations/s."""

    name: str
    memory_bytes: int
    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Offer:
    """How many GPUs of a kind can be had, each at ``price`` per hour in a currency of the user's choice."""

    gpu: Gpu
    count: int
    price: float


def _gpu(name: str, memory_gb: int, bandwidth_gb: int, teraflops: int) -> Gpu:
    return Gpu(name, memory_gb * GB, bandwidth_gb * GB, teraflops * 10**12)


KNOWN = {
    gpu.name: gpu
    for gpu in (
        _gpu("t4", 16, 320, 65),
        _gpu("l4", 24, 300, 121),
        _gpu("a10", 24, 600, 125),
        _gpu("l40s", 48, 864, 362),
        _gpu("a100-40gb", 40, 1555, 312),
        _gpu("a100-80gb", 80, 2039, 312),
        _gpu("h100", 80, 3350, 989),
        _gpu("h200", 141, 4800, 989),
        _gpu("h100-mig-1g.10gb", 10, 418, 124),
        _gpu("h100-mig-2g.20gb", 20, 838, 247),
        _gpu("h100-mig-3g.40gb", 40, 1675, 424),
        _gpu("mi300x", 192, 5300, 1307),
    )
}

# By how much memory may differ from a datasheet's: what drivers tell is in GiB, less what they keep.
MEMORY_TOLERANCE = 0.1

# Without a count: more than anyone would plan with.
UNLIMITED = 1000

# NAME or NAME:MEMORY_GB:BANDWIDTH_GB:TERAFLOPS, then =COUNT and @PRICE.
_OFFER = re.compile(
    r"(?P<name>[\w.-]+)(:(?P<memory>\d+):(?P<bandwidth>\d+):(?P<teraflops>\d+))?"
    r"(=(?P<count>\d+))?(@(?P<price>\d+(\.\d+)?))?"
)


def find_known(name: str, memory_bytes: int) -> Gpu | None:
    """Return the kind that a driver calls ``name``, such as "NVIDIA H100 80GB HBM3 MIG 1g.10gb"; None where unknown."""
    words = set(re.split(r"[\s-]+", name.lower()))
    named = (gpu for gpu in KNOWN.values() if words.issuperset(gpu.name.split("-")))
    # A slice has the name of the whole GPU in its own, but not its size.
    return next((gpu for gpu in named if math.isclose(gpu.memory_bytes, memory_bytes, rel_tol=MEMORY_TOLERANCE)), None)


def offer_found(devices: Sequence[tuple[str, int]]) -> list[Offer]:
    """Offer the GPUs of a machine, each a name and bytes of memory, at a price of 1 each.

    ConfigError when there are none, and for one whose speed is not known.
    """
    if not devices:
        raise ConfigError("no GPU is found here; --gpu says what there is, for example l4=4@0.80")
    counts = Counter(_find_or_refuse(*device) for device in devices)
    return [Offer(gpu, count, 1.0) for gpu, count in counts.items()]


def _find_or_refuse(name: str, memory_bytes: int) -> Gpu:
    gpu = find_known(name, memory_bytes)
    if gpu is None:
        raise ConfigError(
            f"the speed of {name!r}, which is in this machine, is not known; "
            f"--gpu NAME:{memory_bytes // GB}:BANDWIDTH_GB:TERAFLOPS would say it"
        )
    return gpu


def parse_offer(text: str) -> Offer:
    """Read ``l4=4@0.80``: four GPUs of a known kind at 0.80 an hour; another kind says its own numbers.

    Without a count there are as many as one wants, without a price they cost 1. ConfigError for anything else.
    """
    match = _OFFER.fullmatch(text)
    if match is None:
        raise ConfigError(f"GPU {text!r} is not NAME=COUNT@PRICE; write for example l4=4@0.80")
    fields = match.groupdict()
    count, price = int(fields["count"] or UNLIMITED), float(fields["price"] or 1)
    if fields["memory"]:
        numbers = (int(fields[name]) for name in ("memory", "bandwidth", "teraflops"))
        return Offer(_gpu(fields["name"], *numbers), count, price)
    if fields["name"] not in KNOWN:
        raise ConfigError(
            f"GPU {fields['name']!r} is unknown; one of {', '.join(KNOWN)}, "
            "or NAME:MEMORY_GB:BANDWIDTH_GB:TERAFLOPS would be right"
        )
    return Offer(KNOWN[fields["name"]], count, price)
