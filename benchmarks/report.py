"""Results of a benchmark: a table for people, and JSON rows for programs."""

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure; ``peer_value`` is that of ``peer`` in the same run, ``limit_value`` what the hardware allows.

    ``note`` says what a reader would miss, as a figure that could not be had.
    """

    case: str
    metric: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    limit_value: float | None = None
    note: str | None = None


def parse_arguments(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the flags that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--small", action="store_true", help="a case of a few seconds, to see that it runs")
    return parser


def show(title: str, rows: list[Row], json_file: Path | None) -> None:
    """Print the rows and write them to ``json_file``."""
    if json_file:
        write_json(rows, json_file)
    table = Table("case", "metric", "value", "peer", "peer's", "ratio", title=title, title_justify="left")
    if any(row.note for row in rows):
        table.add_column("note")
    for row in rows:
        ratio = f"{row.value / row.peer_value:.2f}" if row.peer_value else ""
        peer_value = f"{row.peer_value:.4g}" if row.peer_value is not None else ""
        cells = (row.case, row.metric, f"{row.value:.4g} {row.unit}", row.peer or "", peer_value, ratio)
        table.add_row(*cells, *filter(None, [row.note]))
    table.caption = describe_machine()
    Console().print(table)


def write_json(rows: list[Row], json_file: Path) -> None:
    """Write the rows to a file, in place of what it held."""
    json_file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def describe_machine() -> str:
    """Name the processor, the cores and the versions that a figure depends on."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name} ({capability}), {os.cpu_count()} cores, torch {torch.__version__}"
