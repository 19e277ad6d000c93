"""Where the time of steps goes, from spans of time. Knows clocks and sums, not what was done."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

Span = tuple[float, float]
Step = tuple[float, int, int, float]


@dataclass
class Trace:
    """Spans in torch and in waiting for experts, in seconds of one clock, and steps.

    A step is its start, its sequences and rows, and the processor seconds that the engine's thread had used by then
    outside torch.
    """

    torch: list[Span] = field(default_factory=list)
    rpc: list[Span] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

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
    """Mean seconds of a step: of which in torch, in nothing but waiting for experts, and in neither.

    ``loop`` are the processor seconds of the engine's thread outside torch: what is neither, and what is done for the
    calls of experts.
    """

    num_steps: int
    step: float
    torch: float
    rpc: float
    neither: float
    loop: float


def shares(trace: Trace, batch: int) -> Shares:
    """Divide up the steps that decode ``batch`` sequences, a row each, and are followed by another such step.

    A step lasts until the next one starts: what comes between, sampled tokens to clients included, is its own. Time
    that is both in torch and in waiting counts as torch.
    """
    pairs = [pair for pair in pairwise(trace.steps) if all(step[1:3] == (batch, batch) for step in pair)]
    if not pairs:
        raise ValueError(f"no two steps with {batch} sequences came one after the other; more requests would be right")
    windows = [(step[0], following[0]) for step, following in pairs]
    loop = sum(following[3] - step[3] for step, following in pairs)
    total = length(windows)
    in_torch = length(clip(trace.torch, windows))
    busy = length(clip(trace.torch + trace.rpc, windows))
    seconds = (total, in_torch, busy - in_torch, total - busy, loop)
    return Shares(len(pairs), *(part / len(pairs) for part in seconds))


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
