"""How long Mixtral's experts take on the GPU at hand, by the tiles that they are cut in. Knows no table.

Alphabet: E experts, D hidden width, F FFN width, K input features, R rows sorted by expert.
"""

import math
import statistics
from collections.abc import Callable
from functools import partial

import torch
from triton.runtime.errors import OutOfResources

from expertmesh.kernels.triton import ops
from expertmesh.kernels.triton.backend import ask_device
from expertmesh.kernels.triton.layout import PLANE_ROWS, PackedMatrices, num_slots
from expertmesh.kernels.triton.routing import Schedule, schedule
from expertmesh.kernels.triton.tuning import Tiles

NUM_EXPERTS, HIDDEN, FFN = 8, 4096, 14336
BITS, GROUP_SIZE = 4, 128
# One after the other in a graph, so that starting it counts for little.
CALLS_PER_GRAPH, TIMED_REPLAYS = 10, 5


class LayerClock:
    """Times both products of a layer: 4-bit weights in groups of 128, bfloat16 rows, all experts with the same number.

    Called with that number and tiles it returns seconds, or infinity where the tiles do not fit the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._facts = ask_device(device)
        self._gate_up = random_matrices(2 * FFN, HIDDEN, device)
        self._down = random_matrices(HIDDEN, FFN, device)

    @torch.inference_mode()
    def __call__(self, rows_per_expert: int, tiles: Tiles) -> float:
        """Time a layer."""
        slots = torch.arange(NUM_EXPERTS, dtype=torch.int32, device=self._device).repeat_interleave(rows_per_expert)
        order = schedule(slots[:, None], NUM_EXPERTS, tiles.block_rows)
        hidden = torch.randn(len(slots), HIDDEN, dtype=torch.bfloat16, device=self._device)  # [R, D]
        try:
            return replay_seconds(partial(self._run, hidden, order, tiles))
        except OutOfResources:
            return math.inf

    def _run(self, hidden: torch.Tensor, order: Schedule, tiles: Tiles) -> None:
        inner = ops.swiglu(hidden, self._gate_up, order, tiles, self._facts)  # [R, F]
        ops.products(inner, self._down, order, tiles, self._facts)


def random_matrices(num_out: int, num_in: int, device: torch.device) -> PackedMatrices:
    """Draw packed matrices of all experts."""
    num_words, num_groups = num_in // num_slots(BITS), num_in // GROUP_SIZE
    return PackedMatrices(
        words=torch.randint(-(2**15), 2**15, (NUM_EXPERTS, num_words, num_out), dtype=torch.int16, device=device),
        scales=torch.rand(NUM_EXPERTS, num_groups, num_out, device=device).div_(8 * num_in**0.5).half(),
        zeros=torch.full((NUM_EXPERTS, num_groups, num_out), 8, dtype=torch.uint8, device=device),
        order=None,
        bias=None,
        bits=BITS,
        group_size=GROUP_SIZE,
        num_in=num_in,
        plane_rows=PLANE_ROWS[0],
    )


def replay_seconds(run: Callable[[], None]) -> float:
    """Return the median seconds of ``run`` as a graph of such calls is replayed."""
    run()  # compiles, which cannot be captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_PER_GRAPH):
            run()
    graph.replay()
    return statistics.median(_time(graph.replay) for _ in range(TIMED_REPLAYS)) / CALLS_PER_GRAPH


def _time(run: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
