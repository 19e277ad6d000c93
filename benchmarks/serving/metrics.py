"""What the answers of a run come to. Knows times and counts, not servers.

TTFT: request sent to first piece of text. TPOT: mean time per further token of one answer. ITL: gap between two pieces;
a piece is what one event carries, usually one token. Percentiles are over answers (TTFT, TPOT) or over all gaps (ITL).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from report import Row

from serving.client import Answer
from serving.pacing import Run


@dataclass(frozen=True)
class Objective:
    """The service level: an answer is good if it keeps both limits."""

    ttft_seconds: float
    tpot_seconds: float

    def is_met_by(self, answer: Answer) -> bool:
        """Whether an answer came whole and in time."""
        return answer.error is None and ttft(answer) <= self.ttft_seconds and tpot(answer) <= self.tpot_seconds


def ttft(answer: Answer) -> float:
    """Return the seconds to the first piece; to the end, for an answer without any text."""
    return (answer.pieces[0] if answer.pieces else answer.finished) - answer.sent


def tpot(answer: Answer) -> float:
    """Return the mean seconds per token after the first; 0 for an answer of one token."""
    if answer.output_tokens < 2:
        return 0.0
    return (answer.finished - answer.sent - ttft(answer)) / (answer.output_tokens - 1)


def gaps(answer: Answer) -> list[float]:
    """Return the seconds between each two pieces."""
    return [later - earlier for earlier, later in pairwise(answer.pieces)]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile, linear between values; NaN where there is none."""
    return float(np.percentile(values, percent)) if values else float("nan")


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    metric: str
    value: float
    unit: str


def figures(run: Run, objective: Objective) -> list[Figure]:
    """Summarise a run; failed answers count as errors and in nothing else."""
    whole = [answer for answer in run.answers if answer.error is None]
    output_tokens = sum(answer.output_tokens for answer in whole)
    return [
        Figure("output_tokens_per_second", output_tokens / run.seconds, "tokens/s"),
        Figure("requests_per_second", len(whole) / run.seconds, "1/s"),
        Figure("goodput", sum(map(objective.is_met_by, run.answers)) / run.seconds, "1/s"),
        *_percentiles("ttft", [ttft(answer) for answer in whole]),
        *_percentiles("tpot", [tpot(answer) for answer in whole if answer.output_tokens > 1]),
        *_percentiles("itl", [gap for answer in whole for gap in gaps(answer)]),
        Figure("tokens_per_piece", output_tokens / max(1, sum(len(answer.pieces) for answer in whole)), "tokens"),
        Figure("prompt_tokens", sum(answer.prompt_tokens for answer in whole), "tokens"),
        Figure("output_tokens", output_tokens, "tokens"),
        Figure("errors", len(run.answers) - len(whole), "requests"),
        Figure("seconds", run.seconds, "s"),
    ]


def _percentiles(name: str, values: Sequence[float]) -> list[Figure]:
    return [Figure(f"{name}_p{percent}_seconds", percentile(values, percent), "s") for percent in (50, 99)]


def compare(case: str, runs: Sequence[Run], objective: Objective) -> list[Row]:
    """Lay the figures of the first run beside those of each other one, metric by metric."""
    first, *peers = [figures(run, objective) for run in runs]
    rows = []
    for index, figure in enumerate(first):
        row = Row(case, figure.metric, figure.value, figure.unit)
        values = [(run.name, peer[index].value) for run, peer in zip(runs[1:], peers, strict=True)]
        rows += [replace(row, peer=name, peer_value=value) for name, value in values] or [row]
    return rows
