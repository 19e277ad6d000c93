"""One Mixtral MoE layer on a GPU: our kernels, what torch offers, and what the hardware allows.

Usage: python benchmarks/gpu_ffn.py [--json FILE]

Eight experts (hidden 4096, FFN 14336, random weights), two per token drawn at random, bfloat16 rows. Peers: for 4 bits
torch's ``_weight_int4pack_mm`` (tinygemm) per expert, for every format ``grouped_mm`` in bfloat16. The limit of a case
is the longer of two times, both with rates measured in this run: reading the weights of the experts that were chosen,
and their products in bfloat16. Needs a CUDA device.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from report import Row, parse_arguments, show
from torch.nn.functional import grouped_mm, silu

from expertmesh.kernels.backend import GroupedFFN
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

HIDDEN, FFN, NUM_EXPERTS, NUM_CHOSEN = 4096, 14336, 8, 2
TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
FORMATS = {"bfloat16": (16, 0), "W4 g128": (4, 128), "W3 g128": (3, 128), "W8 g128": (8, 128)}
# Between ours and a peer on the same weights: both round to bfloat16, at different places.
MAX_DIFFERENCE = 0.03
INNER_TILES = 8  # of tinygemm's layout
WARMUP_RUNS, TIMED_RUNS = 3, 20
COPY_BYTES = 1 << 30
PRODUCT_SIZE = 8192

FFN = Callable[[torch.Tensor, Sequence[int], torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Rows sorted by expert, as a layer gets them: ``x`` [R, D], ``num_rows`` [E], ``row_weights`` [R]."""

    x: torch.Tensor
    num_rows: list[int]
    row_weights: torch.Tensor

    @property
    def num_active(self) -> int:
        """Experts that have rows."""
        return sum(count > 0 for count in self.num_rows)


@dataclass(frozen=True)
class Floor:
    """Rates of this GPU: memory read or written, and bfloat16 arithmetic, per second."""

    bytes_per_second: float
    flops_per_second: float

    def seconds(self, ffn: GroupedFFN, batch: Batch) -> float:
        """Time below which no kernel can be: reading the chosen weights, or the products, whichever takes longer."""
        read = ffn.num_bytes * batch.num_active / NUM_EXPERTS / self.bytes_per_second
        return max(read, 6 * len(batch.x) * HIDDEN * FFN / self.flops_per_second)


class GroupedMatmul:
    """The peer in bfloat16: torch's ``grouped_mm`` twice over stacked matrices."""

    def __init__(self, experts: Sequence[ExpertWeights], device: torch.device) -> None:
        self._gate_up = torch.stack([torch.cat((dense(e.w_gate), dense(e.w_up))).T for e in experts]).to(device)
        self._down = torch.stack([dense(e.w_down).T for e in experts]).to(device)

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``."""
        ends = torch.tensor(num_rows).cumsum(0).int().to(x.device)
        gate, up = grouped_mm(x, self._gate_up, offs=ends).chunk(2, dim=-1)  # [R, F]
        return grouped_mm(silu(gate) * up, self._down, offs=ends) * row_weights[:, None]


class Tinygemm:
    """The peer in 4 bits: torch's int4 product, expert by expert."""

    def __init__(self, experts: Sequence[ExpertWeights], device: torch.device) -> None:
        self._experts = [[pack_tinygemm(w, device) for w in (e.w_gate, e.w_up, e.w_down)] for e in experts]

    def __call__(self, x: torch.Tensor, num_rows: Sequence[int], row_weights: torch.Tensor) -> torch.Tensor:
        """See ``GroupedFFN``."""
        parts = []
        for rows, (gate, up, down) in zip(torch.split(x, list(num_rows)), self._experts, strict=True):
            if len(rows):
                inner = silu(multiply_tinygemm(rows, gate)) * multiply_tinygemm(rows, up)
                parts.append(multiply_tinygemm(inner, down))
        return torch.cat(parts) * row_weights[:, None]


Packed = tuple[torch.Tensor, torch.Tensor, int]


def pack_tinygemm(weight: Weight, device: torch.device) -> Packed:
    """Lay out 4-bit codes for ``_weight_int4pack_mm``: codes, scales and shifts [G, N, 2], group size."""
    assert isinstance(weight, QuantizedWeight)
    codes = weight.codes.to(device)
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]  # [N, K/2] uint8
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs, INNER_TILES)
    scales = weight.scales.float().T
    shifts = (8 - weight.zeros.float().T) * scales
    return packed, torch.stack((scales, shifts), dim=-1).to(device, torch.bfloat16).contiguous(), weight.group_size


def multiply_tinygemm(x: torch.Tensor, packed: Packed) -> torch.Tensor:
    """Multiply ``x`` [M, K] by 4-bit codes."""
    codes, scales_shifts, group_size = packed
    y: torch.Tensor = torch.ops.aten._weight_int4pack_mm(x, codes, group_size, scales_shifts)
    return y


def dense(weight: Weight) -> torch.Tensor:
    """Return the matrix of a dense weight."""
    assert isinstance(weight, DenseWeight)
    return weight.data


def random_weight(num_out: int, num_in: int, bits: int, group_size: int, device: torch.device) -> Weight:
    """Draw a matrix whose products have about the size of their input."""
    if bits == 16:
        return DenseWeight(torch.randn(num_out, num_in, dtype=torch.bfloat16, device=device) * num_in**-0.5)
    groups = (num_out, num_in // group_size)
    middle = 2 ** (bits - 1)
    return QuantizedWeight(
        codes=torch.randint(0, 2**bits, (num_out, num_in), dtype=torch.uint8, device=device),
        scales=(torch.rand(groups, device=device) + 0.5).div_(0.58 * middle * num_in**0.5).half(),
        zeros=torch.randint(middle - 1, middle + 1, groups, dtype=torch.uint8, device=device),
        bits=bits,
        group_size=group_size,
    )


def random_experts(bits: int, group_size: int, device: torch.device) -> list[ExpertWeights]:
    """Draw the experts of a layer."""
    shapes = ((FFN, HIDDEN), (FFN, HIDDEN), (HIDDEN, FFN))
    return [
        ExpertWeights(*(random_weight(*shape, bits, group_size, device) for shape in shapes))
        for _ in range(NUM_EXPERTS)
    ]


def random_batch(num_tokens: int, device: torch.device) -> Batch:
    """Draw tokens, each for two experts, and sort them by expert."""
    generator = torch.Generator().manual_seed(num_tokens)
    topk_ids = torch.rand(num_tokens, NUM_EXPERTS, generator=generator).topk(NUM_CHOSEN).indices
    num_rows = torch.bincount(topk_ids.flatten(), minlength=NUM_EXPERTS).tolist()
    num_total = num_tokens * NUM_CHOSEN
    x = torch.randn(num_total, HIDDEN, generator=generator).to(device, torch.bfloat16)
    return Batch(x, num_rows, torch.rand(num_total, generator=generator).to(device))


def time_on_device(run: Callable[[], object]) -> float:
    """Median seconds of ``run`` on the device; the weights of one layer exceed its caches."""
    for _ in range(WARMUP_RUNS):
        run()
    spans = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(TIMED_RUNS)]
    for start, end in spans:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in spans) / 1000


def measure_floor(device: torch.device) -> Floor:
    """Measure what a plain copy and a plain product reach."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_seconds = time_on_device(lambda: target.copy_(source))
    square = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, dtype=torch.bfloat16, device=device)
    product_seconds = time_on_device(lambda: square @ square)
    return Floor(2 * COPY_BYTES / copy_seconds, 2 * PRODUCT_SIZE**3 / product_seconds)


def measure(device: torch.device) -> Iterator[Row]:
    """Time every format at every number of tokens; bfloat16 comes first, as its peer is that of all."""
    floor = measure_floor(device)
    yield Row("device copy", "bytes_per_second", floor.bytes_per_second, "B/s")
    yield Row("bfloat16 product", "flops_per_second", floor.flops_per_second, "flop/s")
    batches = {num_tokens: random_batch(num_tokens, device) for num_tokens in TOKENS}
    grouped: dict[int, float] = {}
    for name, (bits, group_size) in FORMATS.items():
        experts = random_experts(bits, group_size, device)
        ffn = create_backend("triton", device).experts(experts)
        peer = {16: GroupedMatmul, 4: Tinygemm}.get(bits)
        own_peer = time_peer(peer(experts, device), ffn, batches) if peer else {}
        grouped = grouped or own_peer
        for num_tokens, batch in batches.items():
            case, seconds, limit = f"{name}, {num_tokens} tokens", time_ffn(ffn, batch), floor.seconds(ffn, batch)
            yield Row(case, "p50_seconds", seconds, "s", "grouped_mm bfloat16", grouped[num_tokens], limit)
            if bits == 4:
                yield Row(case, "p50_seconds", seconds, "s", "tinygemm", own_peer[num_tokens], limit)


def time_peer(peer: FFN, ffn: FFN, batches: dict[int, Batch]) -> dict[int, float]:
    """Time a peer at every number of tokens, after checking that it computes what ``ffn`` does."""
    for num_tokens, batch in batches.items():
        found, expected = (run(batch.x, batch.num_rows, batch.row_weights).float() for run in (ffn, peer))
        difference = ((found - expected).norm() / expected.norm()).item()
        if not difference < MAX_DIFFERENCE:
            sys.exit(
                f"{type(peer).__name__} differs by {difference:.3g} at {num_tokens} tokens; {MAX_DIFFERENCE} is fine"
            )
    return {num_tokens: time_ffn(peer, batch) for num_tokens, batch in batches.items()}


def time_ffn(ffn: FFN, batch: Batch) -> float:
    """Median seconds of a layer on a batch."""
    return time_on_device(lambda: ffn(batch.x, batch.num_rows, batch.row_weights))


def main() -> None:
    """Measure and report."""
    arguments = parse_arguments(__doc__).parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_ffn.py needs a CUDA device, and torch finds none here.")
    device = torch.device("cuda")
    torch.manual_seed(0)
    title = f"one Mixtral MoE layer on {torch.cuda.get_device_name(device)}"
    show(title, list(measure(device)), arguments.json)


if __name__ == "__main__":
    main()
