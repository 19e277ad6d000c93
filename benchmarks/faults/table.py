"""Outcomes as tables, for people and for docs/reliability.md. Knows columns, not where numbers come from."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from faults.measure import Outcome
from faults.mesh import Transport

NUMBERS = ("requests", "failed", "differing", "longest wait", "p99", "throughput")
DOCUMENTED = ("", "what happens", "promised", *NUMBERS)
END = "<!-- end -->"


def _numbers(outcome: Outcome) -> tuple[str, ...]:
    return (
        str(outcome.num_requests),
        str(len(outcome.errors)),
        str(outcome.num_differing),
        f"{outcome.longest_wait:.2f} s",
        f"{outcome.p99_wait * 1000:.0f} ms",
        f"{outcome.throughput:.2f}",
    )


def terminal_table(transport: Transport, outcomes: Sequence[Outcome]) -> Table:
    """Make the table of a transport for a terminal."""
    table = Table("", *NUMBERS, title=transport.title, title_justify="left")
    for outcome in outcomes:
        table.add_row(outcome.scenario.name, *_numbers(outcome))
    return table


def write_table(file: Path, transport: Transport, outcomes: Sequence[Outcome], conditions: str) -> None:
    """Replace the table of a transport in a document, between ``<!-- make chaos: NAME -->`` and ``<!-- end -->``.

    ``conditions`` says how and where it was measured. ValueError when the document has no such place.
    """
    begin = f"<!-- make chaos: {transport.name} -->"
    before, _, rest = (text := file.read_text()).partition(begin)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{file} has no place for a table: {begin} and {END} on lines of their own would be one")
    rows = [DOCUMENTED, ["---"] * len(DOCUMENTED), *map(_documented, outcomes)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    file.write_text("\n".join([before + begin, conditions, "", *lines, end]) + after)


def _documented(outcome: Outcome) -> tuple[str, ...]:
    scenario = outcome.scenario
    return scenario.name, scenario.what, scenario.promise, *_numbers(outcome)
