"""Memory of a mesh that is asked for everything it serves, for long: whether any process grows without end.

Usage: python benchmarks/soak.py [--minutes 30] [--clients 4] [--small] [--json FILE]

``expertmesh up`` serves the demo model. Clients stream and do not, sample and choose greedily, fill schemas, leave in
the middle, are refused, and read metrics, in an order drawn from a seed. The resident memory of every process is noted
each second; the slope is that of a line fitted to all but the first third of the time, while caches fill.

The exit code is 1 if any request failed that should not.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from report import Row, parse_arguments, show
from serving.memory_log import MB, MemoryLog
from serving.mixed import MixedClient, Tally
from serving.servers import Expertmesh, running, wait_until_ready

from expertmesh.gateway.served_names import served_names
from expertmesh.rpc.sockets import free_port

DEMO = Path(__file__).parents[1] / "examples" / "tiny-mixtral" / "awq"
(NAME,) = served_names(DEMO, ())
FLAGS = ("--expert-servers", "2", "--device", "cpu")
NOTE_EVERY_SECONDS = 1.0
WARM_UP_SHARE = 1 / 3


@dataclass(frozen=True)
class Soaked:
    """What became of the requests and of the memory, which counts from ``since``, by ``time.monotonic``."""

    tally: Tally
    log: MemoryLog
    since: float


async def soak(url: str, pid: int, seconds: float, num_clients: int) -> Soaked:
    """Ask the gateway at ``url`` for so long, and note the memory of process ``pid`` and its descendants."""
    tally, log, began = Tally(), MemoryLog(pid), time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as http, asyncio.TaskGroup() as group:
        for number in range(num_clients):
            group.create_task(_ask_until(began + seconds, MixedClient(http, NAME, tally, number)))
        while time.monotonic() < began + seconds:
            log.note()
            await asyncio.sleep(min(NOTE_EVERY_SECONDS, seconds / 10))
    log.note()
    return Soaked(tally, log, began + WARM_UP_SHARE * seconds)


async def _ask_until(end: float, client: MixedClient) -> None:
    while time.monotonic() < end:
        await client.ask()


def rows(soaked: Soaked) -> Iterator[Row]:
    """Make the rows of the requests, and of every process that was there for long enough."""
    yield Row("all", "requests", soaked.tally.num_requests, "")
    yield Row("all", "failed", len(soaked.tally.errors), "")
    courses = soaked.log.courses.values()
    last = max(course.seconds[-1] for course in courses)
    for course in courses:
        slope = course.mb_per_minute(soaked.since)
        note = None if course.seconds[-1] == last else "ended before"
        if slope is not None:
            yield Row(course.name, "resident", course.resident_bytes[-1] / MB, "MB", note=note)
            yield Row(course.name, "slope", round(slope, 3), "MB/min", note=note)


def main(argv: Sequence[str] | None = None) -> None:
    """Ask for long and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument("--clients", type=int, default=4, help="how many ask at a time")
    arguments = parser.parse_args(argv)
    seconds = 3.0 if arguments.small else arguments.minutes * 60
    port = free_port()
    mesh = Expertmesh(DEMO, FLAGS)
    with running(mesh.command(port), mesh.environment) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url + mesh.ready_path, process)
        soaked = asyncio.run(soak(url, process.pid, seconds, arguments.clients))
    show(f"{seconds / 60:g} minutes of requests of every kind", list(rows(soaked)), arguments.json)
    if soaked.tally.errors:
        raise SystemExit(f"{len(soaked.tally.errors)} requests failed, such as {soaked.tally.errors[:5]}")


if __name__ == "__main__":
    main()
