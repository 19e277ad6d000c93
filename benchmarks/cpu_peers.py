"""Tokens per second on CPUs: expertmesh, llama.cpp and transformers on the same random Mixtral of real width.

Usage: python benchmarks/cpu_peers.py [--directory DIR] [--only ENGINE]... [--case NAME]...
    [--llama-python PATH] [--small] [--json FILE]

Two layers of Mixtral-8x7B with random weights: AWQ 4-bit for expertmesh, Q4_0 for llama.cpp, bfloat16 for transformers.
Engines run one after the other, each in a process of its own and on all cores: expertmesh as ``expertmesh up`` starts
it (experts in processes of their own, asked over gRPC), the same with ``--backend cpu-a8``, and with all experts in the
gateway's process. All get the same prompts and decode greedily. The checkpoints take 11 GB of disk; ``--directory``
keeps them, and the rates, for later runs: with ``--only`` or ``--case``, the rates of other engines and cases are those
kept. Keep one directory per version of the code: nothing tells whose rates they are.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.cases import CASES, SMALL_CASES
from peers.checkpoint import MIXTRAL, SMALL, write_checkpoints
from report import Row, parse_arguments, show

OURS = "expertmesh"
ENGINES = ["llama", "transformers", "expertmesh"]
ALL_CASES = [case.name for case in CASES]
RATES_FILE = "rates.json"
METRIC, UNIT = "tokens_per_second", "tokens/s"

Rates = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Engine:
    """A module of ``peers`` and the arguments and interpreter it runs with; ``needs`` are its optional packages."""

    name: str
    module: str
    needs: tuple[str, ...]
    arguments: tuple[object, ...]
    python: str = sys.executable

    @property
    def is_installed(self) -> bool:
        """Whether its interpreter finds all that it needs."""
        script = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {self.needs!r})))"
        return subprocess.run([self.python, "-c", script]).returncode == 0


def engines(directory: Path, threads: int, llama_python: str) -> list[Engine]:
    """List the engines, in the order in which they run."""
    bf16, awq, gguf = directory / "bf16", directory / "awq", directory / "q4_0.gguf"
    return [
        Engine("llama", "peers.llama", ("llama_cpp", "gguf"), (bf16, gguf, threads), llama_python),
        Engine("transformers", "peers.transformers_bf16", ("transformers",), (bf16, threads)),
        Engine("expertmesh", "peers.mesh", ("expertmesh",), (awq, threads)),
    ]


def run(engine: Engine, cases: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure one engine in a process of its own; yields each of its ways to run with tokens per second by case."""
    command = [engine.python, "-m", engine.module, *map(str, engine.arguments), *cases]
    paths = filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            name, rates = json.loads(line)
            yield name, rates
    if process.returncode:
        raise SystemExit(f"{engine.name} ended with exit code {process.returncode}; its output above says why")


def measure(directory: Path, chosen: list[Engine], cases: list[str], rates: Rates) -> None:
    """Measure engines and put what they reach into ``rates``; those that are not installed are named and left out."""
    for engine in chosen:
        if not engine.is_installed:
            needs = " and ".join(engine.needs)
            print(f"{engine.name}: skipped, {engine.python} has no {needs}; pip install 'expertmesh[peers]'")
            continue
        for name, measured in run(engine, cases):
            rates[name] = rates.get(name, {}) | measured
            (directory / RATES_FILE).write_text(json.dumps(rates, indent=2) + "\n")


def kept_rates(directory: Path) -> Rates:
    """Read what earlier runs measured, and say so: they may be of other code, or of a busier machine."""
    file = directory / RATES_FILE
    if not file.exists():
        return {}
    rates: Rates = json.loads(file.read_text())
    for name, cases in rates.items():
        print(f"{name}: {', '.join(cases)} from earlier runs ({file}) unless measured below")
    return rates


def rows_of(rates: Rates) -> list[Row]:
    """Compare expertmesh with the better peer of each case, then list every engine by itself."""
    compared = [_compare(case.name, rates) for case in CASES if case.name in rates.get(OURS, {})]
    others = [
        Row(case.name, f"{METRIC} {name}", values[case.name], UNIT)
        for case in CASES
        for name, values in rates.items()
        if name != OURS and case.name in values
    ]
    return compared + others


def _compare(case: str, rates: Rates) -> Row:
    peers = {name: values[case] for name, values in rates.items() if not name.startswith(OURS) and case in values}
    best = max(peers, key=lambda name: peers[name], default=None)
    return Row(case, METRIC, rates[OURS][case], UNIT, best, None if best is None else peers[best])


@contextmanager
def checkpoint_directory(given: Path | None) -> Iterator[Path]:
    """Yield the given directory, or one that is removed afterwards."""
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="expertmesh-peers-") as temporary:
        yield Path(temporary)


def main(argv: Sequence[str] | None = None) -> None:
    """Make checkpoints, measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--directory", type=Path, help="where checkpoints and rates are kept for the next run")
    parser.add_argument("--only", action="append", choices=ENGINES, help="measure this engine; may be repeated")
    parser.add_argument("--case", action="append", choices=ALL_CASES, help="measure this case; may be repeated")
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python and gguf")
    arguments = parser.parse_args(argv)
    # A small model gains nothing from more threads, and those that spin while they wait take the cores from others.
    shape, threads = (SMALL, 1) if arguments.small else (MIXTRAL, os.cpu_count() or 1)
    with checkpoint_directory(arguments.directory) as directory:
        write_checkpoints(directory / "bf16", directory / "awq", shape)
        rates = kept_rates(directory) if arguments.only or arguments.case else {}
        listed = engines(directory, threads, arguments.llama_python)
        chosen = [engine for engine in listed if engine.name in (arguments.only or ENGINES)]
        measure(directory, chosen, arguments.case or (SMALL_CASES if arguments.small else ALL_CASES), rates)
    show(f"{shape.num_layers} layers of a Mixtral of width {shape.hidden} on CPUs", rows_of(rates), arguments.json)


if __name__ == "__main__":
    main()
