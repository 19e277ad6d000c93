"""Tokens per second on CPUs: expertmesh, llama.cpp and transformers on the same random Mixtral of real width.

Usage: python benchmarks/cpu_peers.py [--directory DIR] [--only ENGINE]... [--llama-python PATH] [--json FILE]

Two layers of Mixtral-8x7B with random weights: AWQ 4-bit for expertmesh, Q4_0 for llama.cpp, bfloat16 for transformers.
Engines run one after the other, each in a process of its own and on all cores: expertmesh as ``expertmesh up`` starts
it (experts in processes of their own, asked over gRPC) and with all experts in the gateway's process. All get the same
prompts and decode greedily. The checkpoints take 11 GB of disk; ``--directory`` keeps them, and the rates, for later
runs: with ``--only``, the rates of the other engines are those kept.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.cases import CASES
from report import Row, parse_arguments, show

OURS = "expertmesh"
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


def engines(directory: Path, llama_python: str) -> list[Engine]:
    """List the engines, in the order in which they run."""
    bf16, awq, gguf, threads = directory / "bf16", directory / "awq", directory / "q4_0.gguf", os.cpu_count()
    return [
        Engine("llama", "peers.llama", ("llama_cpp", "gguf"), (bf16, gguf, threads), llama_python),
        Engine("transformers", "peers.transformers_bf16", ("transformers",), (bf16, threads)),
        Engine("expertmesh", "peers.mesh", ("expertmesh",), (awq, threads)),
    ]


def run(engine: Engine) -> Rates:
    """Measure one engine in a process of its own; returns tokens per second by its ways to run and by case."""
    command = [engine.python, "-m", engine.module, *map(str, engine.arguments)]
    here = str(Path(__file__).parent)
    paths = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    output = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return dict(json.loads(line) for line in output.splitlines())


def measure(directory: Path, only: list[str], llama_python: str) -> Rates:
    """Measure the chosen engines; those that are not installed are named and left out."""
    from peers.checkpoint import write_checkpoints

    print(f"random checkpoints in {directory}: written unless they are there", file=sys.stderr)
    write_checkpoints(directory / "bf16", directory / "awq")
    kept = directory / "rates.json"
    rates: Rates = json.loads(kept.read_text()) if only and kept.exists() else {}
    for engine in engines(directory, llama_python):
        if only and engine.name not in only:
            continue
        if not engine.is_installed:
            needs = " and ".join(engine.needs)
            print(f"{engine.name}: skipped, {engine.python} has no {needs}; pip install 'expertmesh[peers]'")
            continue
        rates |= run(engine)
        kept.write_text(json.dumps(rates, indent=2) + "\n")
    return rates


def rows_of(rates: Rates) -> list[Row]:
    """Compare expertmesh with the better peer of each case, then list every engine by itself."""
    peers = [name for name in rates if not name.startswith(OURS)]
    rows = []
    for case in (case.name for case in CASES):
        if OURS in rates:
            best = max(peers, key=lambda name: rates[name][case], default=None)
            rows.append(Row(case, METRIC, rates[OURS][case], UNIT, best, rates[best][case] if best else None))
    return rows + [
        Row(case.name, f"{METRIC} {name}", values[case.name], UNIT)
        for case in CASES
        for name, values in rates.items()
        if name != OURS
    ]


@contextmanager
def checkpoint_directory(given: Path | None) -> Iterator[Path]:
    """Yield the given directory, or one that is removed afterwards."""
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="expertmesh-peers-") as temporary:
        yield Path(temporary)


def main() -> None:
    """Make checkpoints, measure and report."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--directory", type=Path, help="where checkpoints and rates are kept for the next run")
    parser.add_argument("--only", action="append", default=[], choices=("llama", "transformers", "expertmesh"))
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python and gguf")
    arguments = parser.parse_args()
    with checkpoint_directory(arguments.directory) as directory:
        rates = measure(directory, arguments.only, arguments.llama_python)
    show("two layers of Mixtral-8x7B on CPUs", rows_of(rates), arguments.json)


if __name__ == "__main__":
    main()
