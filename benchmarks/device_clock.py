"""How long a CUDA device takes: for calls as they are launched, and for replays of a graph. Knows no kernel."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

WARMUP_RUNS, TIMED_CALLS, TIMED_REPLAYS = 3, 20, 5
# One after the other in a graph, so that starting the graph counts for little.
CALLS_PER_GRAPH = 10

Run = Callable[[], object]


class CaptureError(Exception):
    """A call cannot be part of a graph, for example because it reads or copies what lies on the host."""


class Clock(Protocol):
    """Measures calls on one device."""

    def call_seconds(self, run: Run) -> float:
        """Median seconds of a call, launches included where they take longer than the kernels."""
        ...

    def replay_seconds(self, run: Run) -> float:
        """Median seconds of a call in a graph; CaptureError where it cannot be captured."""
        ...


@dataclass(frozen=True)
class Times:
    """Seconds of a call and of its replay; where there is no replay, ``obstacle`` says why."""

    call: float
    replay: float | None
    obstacle: str | None = None


def time_both_ways(clock: Clock, run: Run) -> Times:
    """Time a call, and its replay if it can be captured."""
    call = clock.call_seconds(run)
    try:
        return Times(call, clock.replay_seconds(run))
    except CaptureError as error:
        return Times(call, None, str(error))


class CudaClock:
    """The clock of the current CUDA device; see ``Clock``."""

    def call_seconds(self, run: Run) -> float:
        """See ``Clock``."""
        _warm_up(run)
        return _median_seconds(run, TIMED_CALLS)

    def replay_seconds(self, run: Run) -> float:
        """See ``Clock``."""
        return _median_seconds(capture(run).replay, TIMED_REPLAYS) / CALLS_PER_GRAPH


def capture(run: Run) -> torch.cuda.CUDAGraph:
    """Record calls in a graph; CaptureError with the first line of what torch says where that is not possible."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    # A capture that fails leaves its stream as the current one; this block puts the one before back.
    with torch.cuda.stream(side):
        _warm_up(run)
        try:
            with torch.cuda.graph(graph, stream=side):
                for _ in range(CALLS_PER_GRAPH):
                    run()
        except RuntimeError as error:
            # What ends a broken capture fails as well, and hides what broke it.
            raise CaptureError(str(error.__context__ or error).partition("\n")[0]) from error
    return graph


def _warm_up(run: Run) -> None:
    for _ in range(WARMUP_RUNS):
        run()


def _median_seconds(run: Run, num_runs: int) -> float:
    spans = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(num_runs)]
    for start, end in spans:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    milliseconds: list[float] = [start.elapsed_time(end) for start, end in spans]
    return statistics.median(milliseconds) / 1000
