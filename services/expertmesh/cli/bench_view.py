"""What ``expertmesh bench`` found, as tables and as JSON. Knows figures and rich, not how they were measured."""

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from expertmesh.cli.top_view import duration

if TYPE_CHECKING:
    from expertmesh.loadgen.load import Load
    from expertmesh.loadgen.pacing import Run
    from expertmesh.loadgen.summary import Spread, Summary

TIMES = {
    "time to first token (TTFT)": "ttft_seconds",
    "time per further token (TPOT)": "tpot_seconds",
    "gap between pieces (ITL)": "itl_seconds",
    "whole answer (E2E)": "e2e_seconds",
}
MAX_FAILURES = 10


@dataclass(frozen=True)
class Outcome:
    """What was put on a server, of which model, and what it answered; ``is_interrupted``: not all of it was sent."""

    model: str
    load: "Load"
    run: "Run"
    is_interrupted: bool = False

    @property
    def title(self) -> str:
        """One line that says what was measured."""
        load = self.load
        return (
            f"{self.model} at {self.run.name}: {load}, {load.prompts}, answers of at most {load.output_tokens} tokens"
        )

    @cached_property
    def summary(self) -> "Summary":
        """The figures."""
        from expertmesh.loadgen.summary import summarize

        return summarize(self.run)


def show(outcome: Outcome) -> None:
    """Print the figures."""
    console, summary = Console(), outcome.summary
    console.print(outcome.title, markup=False, highlight=False)
    console.print(_counts(summary, outcome.is_interrupted), highlight=False)
    console.print(_rates(summary), highlight=False)
    if summary.num_answered:
        console.print(_times_table(summary))
    if summary.failures:
        console.print(_failures_table(summary))


def write_json(outcome: Outcome, file: Path) -> None:
    """Write the figures to a file, in place of what it held; docs/benchmarks.md says what they are called."""
    file.write_text(json.dumps(to_json(outcome), indent=2) + "\n")


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return the load and the figures; what was not given or not measured is None."""
    load = outcome.load
    return {
        "url": outcome.run.name,
        "model": outcome.model,
        "load": {
            "clients": load.num_clients,
            "rate": load.rate,
            "requests": load.num_requests,
            "seconds": None if math.isinf(load.max_seconds) else load.max_seconds,
            "prompts": str(load.prompts),
            "max_tokens": str(load.output_tokens),
            "seed": load.seed,
        },
        "is_interrupted": outcome.is_interrupted,
        **asdict(outcome.summary),
    }


def _counts(summary: "Summary", is_interrupted: bool) -> str:
    counts = [f"{summary.num_answered} answered", f"{summary.num_failed} failed"]
    if is_interrupted:
        counts.append(f"{summary.num_unfinished} given up: interrupted")
    return f"requests    {', '.join(counts)}, in {summary.seconds:.1f} s"


def _rates(summary: "Summary") -> str:
    tokens = f"{summary.output_tokens_per_second:,.1f} new tokens/s"
    prompts = f"{summary.prompt_tokens_per_second:,.1f} prompt tokens/s"
    return f"throughput  {summary.requests_per_second:,.2f} requests/s, {tokens}, {prompts}"


def _times_table(summary: "Summary") -> Table:
    table = Table("")
    for column in ("mean", "p50", "p90", "p99"):
        table.add_column(column, justify="right")
    for name, attribute in TIMES.items():
        table.add_row(name, *_durations(getattr(summary, attribute)))
    return table


def _durations(spread: "Spread | None") -> list[str]:
    if spread is None:
        return ["-"] * 4
    return [duration(round(seconds * 1e9)) for seconds in (spread.mean, spread.p50, spread.p90, spread.p99)]


def _failures_table(summary: "Summary") -> Table:
    table = Table("failed", "HTTP status", "error")
    for failure in summary.failures[:MAX_FAILURES]:
        table.add_row(str(failure.count), str(failure.status or "none"), Text(failure.error))
    return table
