"""Where the time of steps goes, from spans of time. Knows clocks and sums, not what was done."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

Span = tuple[float, float]


@dataclass
class Trace:
    """Spans in torch and in waiting for experts, and (start, sequences, rows) of each step; seconds of one clock."""

    torch: list[Span] = field(default_factory=list)
    rpc: list[Span] = field(default_factory=list)
    steps: list[tuple[float, int, int]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Trace":
        """Read what ``write`` wrote."""
        content = json.loads(path.read_text())
        return cls(*([tuple(values) for values in content[name]] for name in ("torch", "rpc", "steps")))


@dataclass(frozen=True)
class Shares:
    """Mean seconds of a step, of which in torch, in nothing but waiting for experts, and in neither."""

    num_steps: int
    step: float
    torch: float
    rpc: float
    neither: float


def shares(trace: Trace, batch: int) -> Shares:
    """Divide up the steps that decode ``batch`` sequences, a row each, and are followed by another such step.

    A step lasts until the next one starts: what comes between, sampled tokens to clients included, is its own. Time
    that is both in torch and in waiting counts as torch.
    """
    windows = [
        (start, end)
        for (start, *sizes), (end, *next_sizes) in pairwise(trace.steps)
        if sizes == next_sizes == [batch, batch]
    ]
    if not windows:
        raise ValueError(f"no two steps with {batch} sequences came one after the other; more requests would be right")
    total = length(windows)
    in_torch = length(clip(trace.torch, windows))
    busy = length(clip(trace.torch + trace.rpc, windows))
    count = len(windows)
    return Shares(count, total / count, in_torch / count, (busy - in_torch) / count, (total - busy) / count)


def length(spans: Iterable[Span]) -> float:
    """Return how much time any of the spans covers."""
    return sum(end - start for start, end in merge(spans))


def merge(spans: Iterable[Span]) -> list[Span]:
    """Join spans that overlap or touch; the result is in order."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def clip(spans: Sequence[Span], windows: Sequence[Span]) -> list[Span]:
    """Keep what of the spans lies in one of the windows, which are in order and apart."""
    clipped: list[Span] = []
    waiting = merge(spans)[::-1]
    for first, last in windows:
        while waiting and waiting[-1][0] < last:
            start, end = waiting.pop()
            if end > first:
                clipped.append((max(start, first), min(end, last)))
            if end > last:
                waiting.append((last, end))
                break
    return clipped
