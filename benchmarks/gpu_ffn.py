"""One Mixtral MoE layer on a GPU: our kernels, what torch offers, and what the hardware allows.

Usage: python benchmarks/gpu_ffn.py [--small] [--json FILE]

Eight experts (hidden 4096, FFN 14336, random weights), two per token drawn at random, bfloat16 rows. Peers: for 4 bits
torch's ``_weight_int4pack_mm`` (tinygemm) per expert, for every format ``grouped_mm`` in bfloat16. Each is timed twice:
as it is called, where few tokens take as long as Python takes to launch kernels, and as a graph of such calls is
replayed, which is what the kernels take. What cannot be captured in a graph has a note instead. The limit of a case is
the longer of two times, both with rates measured in this run: reading the weights of the experts that were chosen, and
their products in bfloat16. Needs a CUDA device.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from device_clock import Clock, CudaClock, Times, time_both_ways
from peers.torch_ffn import GroupedMatmul, Tinygemm
from report import Row, parse_arguments, show

from expertmesh.kernels.backend import Backend, DeviceFFN, GroupedFFN
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.weights import DenseWeight, ExpertWeights, QuantizedWeight, Weight

FORMATS = {"bfloat16": (16, 0), "W4 g128": (4, 128), "W3 g128": (3, 128), "W8 g128": (8, 128)}
# Between ours and a peer on the same weights: both round to bfloat16, at different places.
MAX_DIFFERENCE = 0.03

FFN = Callable[[torch.Tensor, Sequence[int], torch.Tensor], torch.Tensor]
# Of every peer that was timed, the times by number of tokens.
PeerTimes = dict[str, dict[int, Times]]


@dataclass(frozen=True)
class Shape:
    """One layer: ``hidden`` D, ``ffn`` F, and how many of its ``experts`` E are ``chosen`` A per token."""

    hidden: int
    ffn: int
    experts: int
    chosen: int


@dataclass(frozen=True)
class Sizes:
    """A layer, the numbers of tokens it is timed with, and what tells the rates of the hardware."""

    shape: Shape
    tokens: tuple[int, ...]
    copy_bytes: int
    product_size: int


MIXTRAL = Sizes(Shape(4096, 14336, 8, 2), (1, 4, 16, 64, 256, 1024, 4096), copy_bytes=1 << 30, product_size=8192)
SMALL = Sizes(Shape(256, 512, 8, 2), (1, 16), copy_bytes=1 << 20, product_size=256)


@dataclass(frozen=True)
class Peer:
    """Another way to compute a layer: ``take`` makes it of experts on a device."""

    name: str
    take: Callable[[Sequence[ExpertWeights], torch.device], FFN]


PEERS = {16: [Peer("grouped_mm bfloat16", GroupedMatmul)], 4: [Peer("tinygemm", Tinygemm)]}


@dataclass(frozen=True)
class Sides:
    """Who is timed: our backend, and peers by the bits of the weights that they take. The clock is its device's."""

    backend: Backend
    peers: Mapping[int, Sequence[Peer]]
    clock: Clock


@dataclass(frozen=True)
class Batch:
    """Rows sorted by expert: ``x`` [R, D], ``num_rows`` [E], ``row_weights`` [R]; ``slots`` [R] are their experts."""

    x: torch.Tensor
    num_rows: list[int]
    row_weights: torch.Tensor
    slots: torch.Tensor

    @property
    def num_active(self) -> int:
        """Experts that have rows."""
        return sum(count > 0 for count in self.num_rows)


@dataclass(frozen=True)
class Floor:
    """Rates of this GPU: memory read or written, and bfloat16 arithmetic, per second."""

    bytes_per_second: float
    flops_per_second: float

    def seconds(self, ffn: GroupedFFN, batch: Batch, shape: Shape) -> float:
        """Time below which no kernel can be: reading the chosen weights, or the products, whichever takes longer."""
        read = ffn.num_bytes * batch.num_active / shape.experts / self.bytes_per_second
        return max(read, 6 * len(batch.x) * shape.hidden * shape.ffn / self.flops_per_second)


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


def random_experts(shape: Shape, bits: int, group_size: int, device: torch.device) -> list[ExpertWeights]:
    """Draw the experts of a layer."""
    inner, outer = (shape.ffn, shape.hidden), (shape.hidden, shape.ffn)
    return [
        ExpertWeights(*(random_weight(*matrix, bits, group_size, device) for matrix in (inner, inner, outer)))
        for _ in range(shape.experts)
    ]


def random_batch(shape: Shape, num_tokens: int, device: torch.device) -> Batch:
    """Draw tokens, choose experts for each, and sort them by expert."""
    generator = torch.Generator().manual_seed(num_tokens)
    topk_ids = torch.rand(num_tokens, shape.experts, generator=generator).topk(shape.chosen).indices
    num_rows = torch.bincount(topk_ids.flatten(), minlength=shape.experts).tolist()
    num_total = num_tokens * shape.chosen
    x = torch.randn(num_total, shape.hidden, generator=generator).to(device, torch.bfloat16)
    slots = torch.arange(shape.experts, dtype=torch.int32).repeat_interleave(torch.tensor(num_rows))
    return Batch(x, num_rows, torch.rand(num_total, generator=generator).to(device), slots.to(device))


def measure_floor(sizes: Sizes, device: torch.device, clock: Clock) -> Floor:
    """Measure what a plain copy and a plain product reach."""
    source = torch.empty(sizes.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_seconds = clock.call_seconds(lambda: target.copy_(source))
    square = torch.randn(sizes.product_size, sizes.product_size, dtype=torch.bfloat16, device=device)
    product_seconds = clock.call_seconds(lambda: square @ square)
    return Floor(2 * sizes.copy_bytes / copy_seconds, 2 * sizes.product_size**3 / product_seconds)


def measure(sizes: Sizes, sides: Sides) -> Iterator[Row]:
    """Time every format at every number of tokens; bfloat16 comes first, as its peer is that of all."""
    device = sides.backend.device
    floor = measure_floor(sizes, device, sides.clock)
    yield Row("device copy", "bytes_per_second", floor.bytes_per_second, "B/s")
    yield Row("bfloat16 product", "flops_per_second", floor.flops_per_second, "flop/s")
    batches = {num_tokens: random_batch(sizes.shape, num_tokens, device) for num_tokens in sizes.tokens}
    common: PeerTimes = {}
    for name, (bits, group_size) in FORMATS.items():
        experts = random_experts(sizes.shape, bits, group_size, device)
        ffn = sides.backend.experts(experts)
        own: PeerTimes = {
            peer.name: time_peer(peer.take(experts, device), ffn, batches, sides.clock)
            for peer in sides.peers.get(bits, ())
        }
        common = common or own
        for num_tokens, batch in batches.items():
            peers = {peer: times[num_tokens] for peer, times in (common | own).items()}
            limit = floor.seconds(ffn, batch, sizes.shape)
            yield from compare(f"{name}, {num_tokens} tokens", time_ffn(ffn, batch, sides.clock), peers, limit)


def time_peer(peer: FFN, ffn: FFN, batches: dict[int, Batch], clock: Clock) -> dict[int, Times]:
    """Time a peer at every number of tokens, after checking that it computes what ``ffn`` does."""
    for num_tokens, batch in batches.items():
        found, expected = (run(batch.x, batch.num_rows, batch.row_weights).float() for run in (ffn, peer))
        difference = ((found - expected).norm() / expected.norm()).item()
        if not difference < MAX_DIFFERENCE:
            sys.exit(
                f"{type(peer).__name__} differs by {difference:.3g} at {num_tokens} tokens; {MAX_DIFFERENCE} is fine"
            )
    return {num_tokens: time_ffn(peer, batch, clock) for num_tokens, batch in batches.items()}


def time_ffn(ffn: FFN, batch: Batch, clock: Clock) -> Times:
    """Time a layer on a batch; one that is on a device whole finds out there whose rows are whose."""
    if isinstance(ffn, DeviceFFN):
        slots, weights = batch.slots[:, None], batch.row_weights[:, None]
        return time_both_ways(clock, lambda: ffn.run_chosen(batch.x, slots, weights))
    return time_both_ways(clock, lambda: ffn(batch.x, batch.num_rows, batch.row_weights))


def compare(case: str, own: Times, peers: Mapping[str, Times], limit: float) -> Iterator[Row]:
    """Lay our calls beside those of each peer, and our replays; a side without replays has a note that says why."""
    for peer, times in peers.items():
        note = own.obstacle and f"no replay of ours: {own.obstacle}"
        yield Row(case, "p50_seconds", own.call, "s", peer, times.call, limit, note)
    for peer, times in peers.items():
        note = times.obstacle and f"no replay of {peer}: {times.obstacle}"
        if own.replay is not None:
            yield Row(case, "replay_p50_seconds", own.replay, "s", peer, times.replay, limit, note)
        elif times.replay is not None:
            yield Row(case, f"replay_p50_seconds of {peer}", times.replay, "s", limit_value=limit)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and report."""
    arguments = parse_arguments(__doc__).parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("gpu_ffn.py needs a CUDA device, and torch finds none here.")
    device = torch.device("cuda")
    torch.manual_seed(0)
    sides = Sides(create_backend("triton", device), PEERS, CudaClock())
    rows = list(measure(SMALL if arguments.small else MIXTRAL, sides))
    show(f"one MoE layer on {torch.cuda.get_device_name(device)}", rows, arguments.json)


if __name__ == "__main__":
    main()
