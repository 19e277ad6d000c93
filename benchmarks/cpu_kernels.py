"""Matrices on a CPU: the C kernels of every instruction set of this machine, beside what torch has.

Usage: python benchmarks/cpu_kernels.py [--rows 1 8 64] [--bits 3 4 8 16] [--threads 2] [--small] [--json FILE]

Of codes of up to 4 bits, "cpu-a8" are the C kernels that round activations to 8 bits. Torch's peers are its int4pack op
beside 4 bits, and its product (oneDNN) beside 16 bits, which are bfloat16, and 32.

One matrix of Mixtral's experts (14336 x 4096, groups of 128), bfloat16 rows, float32 ones beside 32 bits. Sides take
turns; the best time of each counts, because other work on the machine only ever adds. Each side walks through copies of
its matrix that together exceed the caches, as the experts of a model do. The limit of a time is that of reading the
packed matrix at the speed at which this machine sums a large float32 vector.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from report import Row, parse_arguments, show

from expertmesh.kernels.cpu import CpuBackend
from expertmesh.kernels.native.isa import names_of, usable_variants
from expertmesh.kernels.native.matrix import STORED_BITS_BESIDE_INT8
from expertmesh.kernels.quantize import dequantize
from expertmesh.kernels.weights import DenseWeight, QuantizedWeight, Weight

GROUP_SIZE = 128
NUM_COPIES = 4
# What torch has for a width.
PEERS = {4: "torch int4pack", 16: "torch bfloat16", 32: "torch float32"}
DENSE = {16: torch.bfloat16, 32: torch.float32}
SECONDS_PER_CASE = 0.3
MIN_TURNS, MAX_TURNS = 3, 100


@dataclass(frozen=True)
class Sizes:
    """A matrix, and how many rows are multiplied by it where no flag says otherwise."""

    num_out: int
    num_in: int
    rows: tuple[int, ...]


MIXTRAL = Sizes(14336, 4096, (1, 2, 4, 8, 16, 32, 64, 128, 512))
SMALL = Sizes(512, 256, (1, 8))


def random_weight(bits: int, sizes: Sizes) -> QuantizedWeight:
    """Draw codes, scales and zeros of a matrix."""
    generator = torch.Generator().manual_seed(bits)
    shape = (sizes.num_out, sizes.num_in // GROUP_SIZE)
    return QuantizedWeight(
        codes=torch.randint(0, 2**bits, (sizes.num_out, sizes.num_in), dtype=torch.uint8, generator=generator),
        scales=torch.rand(shape, generator=generator).mul_(0.01).half(),
        zeros=torch.randint(0, 2**bits, shape, dtype=torch.uint8, generator=generator),
        bits=bits,
        group_size=GROUP_SIZE,
    )


def rotate(backend: CpuBackend, weight: Weight) -> Callable[[torch.Tensor], torch.Tensor]:
    """Multiply by one copy of the matrix after the other."""
    copies = itertools.cycle([backend.linear(weight) for _ in range(NUM_COPIES)])
    return lambda x: next(copies)(x)


def measure_seconds(
    sides: dict[str, Callable[[torch.Tensor], torch.Tensor]], x: torch.Tensor, patience: int = 1
) -> dict[str, float]:
    """Best time of each side, tried ``patience`` times as often and long as a matrix needs."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    stop = time.perf_counter() + SECONDS_PER_CASE * len(sides) * patience
    for turn in range(MAX_TURNS * patience + 1):
        for name, multiply in sides.items():
            started = time.perf_counter()
            multiply(x)
            times[name].append(time.perf_counter() - started)
        if turn >= MIN_TURNS and time.perf_counter() > stop:
            break
    return {name: min(values[1:]) for name, values in times.items()}


def measure_bandwidth() -> float:
    """Bytes per second at which a vector much larger than the caches is summed."""
    vector = torch.ones(2**26)
    return vector.nbytes / min(measure_seconds({"sum": torch.sum}, vector).values())


def make_weight(bits: int, sizes: Sizes) -> Weight:
    """Draw a matrix of codes, or of floats."""
    if bits not in DENSE:
        return random_weight(bits, sizes)
    return DenseWeight(dequantize(random_weight(4, sizes), DENSE[bits]))


def make_sides(bits: int, weight: Weight) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Lay the matrix out for every side; the best instruction set comes first."""
    isas = names_of(usable_variants())[::-1]
    sides = {isa: rotate(CpuBackend(isa=isa), weight) for isa in isas}
    if bits in STORED_BITS_BESIDE_INT8:
        sides["cpu-a8"] = rotate(CpuBackend(activation_bits=8), weight)
    if bits in PEERS:
        sides[PEERS[bits]] = rotate(CpuBackend(is_native=False), weight)
    return sides


def measure_bits(bits: int, sizes: Sizes, cases: Sequence[int], bandwidth: float) -> list[Row]:
    """Time a width at each number of rows."""
    weight = make_weight(bits, sizes)
    num_bytes = CpuBackend().linear(weight).num_bytes
    sides = make_sides(bits, weight)
    dtype = torch.float32 if bits == 32 else torch.bfloat16
    rows = []
    for num_rows in cases:
        seconds = measure_seconds(sides, torch.randn(num_rows, sizes.num_in).to(dtype))
        num_products = num_rows * sizes.num_out * sizes.num_in
        rows += describe(f"{bits} bits, {num_rows} rows", num_products, seconds, num_bytes, bandwidth)
    return rows


def describe(case: str, num_products: int, seconds: dict[str, float], num_bytes: int, bandwidth: float) -> list[Row]:
    """Times of the first side beside each peer, and the rates that follow from them."""
    (name, own), *peers = seconds.items()
    limit = num_bytes / bandwidth * 1e3
    return [
        *(Row(case, f"time, {name}", own * 1e3, "ms", peer, value * 1e3, limit) for peer, value in peers),
        Row(case, "weights read", num_bytes / own / 1e9, "GB/s", "sum of a vector", bandwidth / 1e9),
        Row(case, "arithmetic", 2 * num_products / own / 1e9, "GFLOP/s"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every width and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 4, 8, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    sizes = SMALL if arguments.small else MIXTRAL
    torch.set_num_threads(arguments.threads)
    bandwidth = measure_bandwidth()
    rows = [Row("memory", "bandwidth", bandwidth / 1e9, "GB/s")]
    for bits in arguments.bits:
        rows += measure_bits(bits, sizes, arguments.rows or sizes.rows, bandwidth)
    show(f"{sizes.num_out} x {sizes.num_in}, groups of {GROUP_SIZE}, {arguments.threads} threads", rows, arguments.json)


if __name__ == "__main__":
    main()
