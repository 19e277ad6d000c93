"""What clients see when replicas and networks fail: failed requests, texts that differ, pauses.

Usage: python benchmarks/chaos.py [--transport grpc|tcp|unix]... [--only NAME]... [--seconds 15] [--write FILE]
    [--small] [--json FILE]

A gateway and two replicas of each of four groups of experts serve the demo model, each in a process of its own. Four
clients stream greedy and sampled answers, one after the other. Then something happens to one replica, or to the wires
between it and the gateway, for so many seconds, and all that the clients get until everything is well again is compared
with what each question is answered when asked alone. The gateway is a new one for each scenario. tcp and unix are the
two kinds of direct links.

The exit code is 1 if any request failed or any text differed. --write puts the tables into a document in place of those
that are in it, as in docs/reliability.md.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from faults.measure import Outcome, Texts, measure
from faults.mesh import QUARTERS, Transport, faulty_mesh
from faults.scenarios import SCENARIOS, Scenario
from faults.table import terminal_table, write_table
from report import Row, describe_machine, parse_arguments, write_json
from rich.console import Console

TRANSPORTS = {transport.name.lower(): transport for transport in Transport}
SMALL = {"transport": ["tcp"], "only": ["undisturbed", "blackhole"], "seconds": 1.0, "groups": ("0-7",)}


async def run(
    transport: Transport, scenarios: Sequence[Scenario], groups: Sequence[str], seconds: float, texts: Texts
) -> list[Outcome]:
    """Have those scenarios happen that can, one after the other; see ``measure``."""
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        async with faulty_mesh(transport, groups, Path(directory)) as mesh:
            for scenario in filter(lambda scenario: scenario.can_happen(transport), scenarios):
                outcomes.append(await measure(mesh, scenario, texts, seconds))
                _tell(outcomes[-1])
    return outcomes


def _tell(outcome: Outcome) -> None:
    """Say at once how a scenario went: all of them take long."""
    how = "as promised" if outcome.is_as_promised else f"{outcome.num_differing} differ, errors: {outcome.errors[:3]}"
    print(f"{outcome.transport.title}: {outcome.scenario.name}: {how}", file=sys.stderr, flush=True)


def rows(outcome: Outcome) -> Iterator[Row]:
    """Make the rows of an outcome for programs."""
    case = f"{outcome.scenario.name}, {outcome.transport.title}"
    yield Row(case, "requests", outcome.num_requests, "")
    yield Row(case, "failed", len(outcome.errors), "")
    yield Row(case, "differing", outcome.num_differing, "")
    yield Row(case, "longest wait", outcome.longest_wait, "s")
    yield Row(case, "p99 of waits", outcome.p99_wait, "s")
    yield Row(case, "throughput to that before", outcome.throughput, "")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--transport", action="append", choices=TRANSPORTS, help="may be repeated; default: all")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--only", action="append", choices=names, help="may be repeated; default: all that can happen")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long a fault lasts")
    parser.add_argument("--write", type=Path, metavar="FILE", help="a document to write the tables into")
    parser.set_defaults(groups=QUARTERS)
    arguments = parser.parse_args(argv)
    if arguments.small:
        parser.set_defaults(**SMALL)
        arguments = parser.parse_args(argv)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Let things happen and report."""
    arguments = parse(argv)
    wanted = [scenario for scenario in SCENARIOS if not arguments.only or scenario.name in arguments.only]
    texts: Texts = {}
    conditions = f"{date.today()}, {describe_machine()}; each for {arguments.seconds:g} s:"
    outcomes: list[Outcome] = []
    for name in arguments.transport or TRANSPORTS:
        transport = TRANSPORTS[name]
        found = asyncio.run(run(transport, wanted, arguments.groups, arguments.seconds, texts))
        Console().print(terminal_table(transport, found))
        if arguments.write:
            write_table(arguments.write, transport, found, conditions)
        outcomes += found
    if arguments.json:
        write_json([row for outcome in outcomes for row in rows(outcome)], arguments.json)
    if not all(outcome.is_as_promised for outcome in outcomes):
        raise SystemExit("requests failed or texts differed; see above")


if __name__ == "__main__":
    main()
