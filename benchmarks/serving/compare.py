"""Runs laid beside each other, as rows of a report. Knows figures, not servers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from report import Row

from expertmesh.loadgen.client import Answer
from expertmesh.loadgen.pacing import Run
from expertmesh.loadgen.summary import Spread, summarize, tpot, ttft

NOTHING = float("nan")


@dataclass(frozen=True)
class Objective:
    """The service level: an answer is good if it keeps both limits."""

    ttft_seconds: float
    tpot_seconds: float

    def is_met_by(self, answer: Answer) -> bool:
        """Whether an answer came whole and in time."""
        return answer.error is None and ttft(answer) <= self.ttft_seconds and tpot(answer) <= self.tpot_seconds


@dataclass(frozen=True)
class Figure:
    """One number of a run."""

    metric: str
    value: float
    unit: str


def figures(run: Run, objective: Objective) -> list[Figure]:
    """List the figures of a run."""
    summary = summarize(run)
    return [
        Figure("output_tokens_per_second", summary.output_tokens_per_second, "tokens/s"),
        Figure("requests_per_second", summary.requests_per_second, "1/s"),
        Figure("goodput", sum(map(objective.is_met_by, run.answers)) / run.seconds, "1/s"),
        *_percentiles("ttft", summary.ttft_seconds),
        *_percentiles("tpot", summary.tpot_seconds),
        *_percentiles("itl", summary.itl_seconds),
        Figure("tokens_per_piece", summary.tokens_per_piece or 0.0, "tokens"),
        Figure("prompt_tokens", summary.prompt_tokens, "tokens"),
        Figure("output_tokens", summary.output_tokens, "tokens"),
        Figure("errors", summary.num_failed, "requests"),
        Figure("seconds", run.seconds, "s"),
    ]


def _percentiles(name: str, spread: Spread | None) -> list[Figure]:
    p50, p99 = (NOTHING, NOTHING) if spread is None else (spread.p50, spread.p99)
    return [Figure(f"{name}_p50_seconds", p50, "s"), Figure(f"{name}_p99_seconds", p99, "s")]


def compare(case: str, runs: Sequence[Run], objective: Objective) -> list[Row]:
    """Lay the figures of the first run beside those of each other one, metric by metric."""
    first, *peers = [figures(run, objective) for run in runs]
    rows = []
    for index, figure in enumerate(first):
        row = Row(case, figure.metric, figure.value, figure.unit)
        values = [(run.name, peer[index].value) for run, peer in zip(runs[1:], peers, strict=True)]
        rows += [replace(row, peer=name, peer_value=value) for name, value in values] or [row]
    return rows
