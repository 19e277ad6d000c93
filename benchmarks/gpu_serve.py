"""Tokens per second on a GPU: expertmesh, transformers and vLLM on a random Mixtral of real width.

Usage: python benchmarks/gpu_serve.py [--layers 16] [--servers 1,8] [--only ENGINE]... [--case NAME]...
    [--directory DIR] [--small] [--json FILE]

AWQ 4-bit in groups of 128, with random codes drawn on the device. expertmesh is asked over its public API, with all
experts in the gateway's process and with so many expert servers on the same GPU; transformers computes in bfloat16 with
weights of the same shape; vLLM, where it is installed, reads the same files. Engines run one after the other, get the
same prompts and decode greedily. The limit of a decode is what reading its weights takes once, those of the experts
that are chosen at random, at the rate of a plain copy. ``--directory`` keeps the checkpoint (16 layers: 12.5 GB).
Needs a CUDA device; ``--small`` is a tiny model, which where there is none runs on the CPU, to try all of it.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from cpu_peers import METRIC, UNIT, Engine, Rates, checkpoint_directory, run
from device_clock import CudaClock
from peers.awq_checkpoint import write_awq
from peers.cases import CASES, SMALL_CASES, WIDE_CASES, Case
from peers.checkpoint import MIXTRAL, SMALL, Shape
from report import Row, parse_arguments, show, write_json

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.summary import summarize
from expertmesh.kernels import cuda_devices

OURS = "expertmesh"
ENGINES = (OURS, "transformers", "vllm")
ALL_CASES = {case.name: case for case in (*CASES, *WIDE_CASES)}
COPY_BYTES = 1 << 30


@dataclass(frozen=True)
class Setting:
    """What is served, how the mesh is cut, and which engines and cases are measured."""

    shape: Shape
    servers: str
    engines: Sequence[str]
    cases: Sequence[str]


def engines(directory: Path, device: torch.device, servers: str) -> list[Engine]:
    """List the engines, in the order in which they run."""
    return [
        Engine(OURS, "peers.gpu_mesh", ("expertmesh",), (directory, device, servers)),
        Engine("transformers", "peers.gpu_transformers", ("transformers",), (directory, device)),
        Engine("vllm", "peers.vllm_awq", ("vllm",), (directory,)),
    ]


def measure(setting: Setting, directory: Path, device: torch.device) -> Iterator[Rates]:
    """Measure the engines that are installed; yields all rates so far after each way to run."""
    rates: Rates = {}
    for engine in engines(directory, device, setting.servers):
        if engine.name not in setting.engines:
            continue
        if not engine.is_installed:
            print(f"{engine.name}: skipped, it is not installed")
            continue
        for name, measured in run(engine, list(setting.cases)):
            rates[name] = measured
            yield rates


def rows_of(rates: Rates, limits: dict[str, float]) -> list[Row]:
    """Lay every way to run expertmesh beside the best peer of each case and its limit, then list the peers."""
    ours = [name for name in rates if name.startswith(OURS)]
    peers = [name for name in rates if name not in ours]
    rows = []
    for case in ALL_CASES:
        best = max((name for name in peers if case in rates[name]), key=lambda name: rates[name][case], default=None)
        beside = (best, None if best is None else rates[best][case], limits.get(case))
        rows += [_row(case, name, rates, *beside) for name in ours if case in rates[name]]
        rows += [_row(case, name, rates) for name in peers if case in rates[name]]
    return rows


def _row(
    case: str,
    name: str,
    rates: Rates,
    peer: str | None = None,
    peer_rate: float | None = None,
    limit: float | None = None,
) -> Row:
    return Row(case, f"{METRIC} {name}", rates[name][case], UNIT, peer, peer_rate, limit)


def decode_limit(directory: Path, case: Case, bytes_per_second: float) -> float:
    """Tokens per second at which a step reads its weights once: of each expert, as often as any row chooses it."""
    checkpoint = Checkpoint.open(directory)
    model, summary = checkpoint.model, summarize(checkpoint)
    num_untouched = (1 - model.num_experts_per_token / model.num_experts) ** case.batch
    table_bytes = 2 * checkpoint.tensors.ends["embedding"].num_values  # of which a step reads a row per token
    num_bytes = summary.gateway_bytes - table_bytes + sum(summary.expert_bytes) * (1 - num_untouched)
    return case.batch * bytes_per_second / num_bytes


def measure_limits(directory: Path, cases: Sequence[str], device: torch.device) -> dict[str, float]:
    """Measure a copy on the GPU and work out the limits of decoding; a CPU has none here."""
    if device.type != "cuda":
        return {}
    bytes_per_second = copy_rate(device)
    torch.cuda.empty_cache()  # the engines, in processes of their own, want the memory
    decodes = [ALL_CASES[name] for name in cases if ALL_CASES[name].new_tokens]
    return {case.name: decode_limit(directory, case, bytes_per_second) for case in decodes}


def copy_rate(device: torch.device) -> float:
    """Measure bytes read and written per second."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / CudaClock().call_seconds(lambda: target.copy_(source))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = parse_arguments(__doc__)
    parser.add_argument("--layers", type=int, default=16, help="of the 32 that Mixtral-8x7B has")
    parser.add_argument("--servers", default="1,8", help="numbers of expert servers, with commas between")
    parser.add_argument("--only", action="append", choices=ENGINES, help="measure this engine; may be repeated")
    parser.add_argument("--case", action="append", choices=ALL_CASES, help="measure this case; may be repeated")
    parser.add_argument("--directory", type=Path, help="where the checkpoint is kept for the next run")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the checkpoint, measure and report; what is measured is written after each way to run."""
    arguments = parse(argv)
    gpus = cuda_devices.find_devices()
    if not gpus and not arguments.small:
        sys.exit("gpu_serve.py needs a CUDA device, and torch finds none here; --small would run on the CPU.")
    device = torch.device("cuda:0" if gpus else "cpu")
    setting = Setting(
        shape=SMALL if arguments.small else replace(MIXTRAL, num_layers=arguments.layers),
        servers="2" if arguments.small else arguments.servers,
        engines=arguments.only or ENGINES,
        cases=arguments.case or (SMALL_CASES if arguments.small else list(ALL_CASES)),
    )
    rows: list[Row] = []
    with checkpoint_directory(arguments.directory) as directory:
        write_awq(directory, setting.shape, device)
        limits = measure_limits(directory, setting.cases, device)
        for rates in measure(setting, directory, device):
            rows = rows_of(rates, limits)
            if arguments.json:
                write_json(rows, arguments.json)
    where = gpus[0].kind if gpus else "the CPU"
    show(
        f"{setting.shape.num_layers} layers of a Mixtral of width {setting.shape.hidden} on {where}",
        rows,
        arguments.json,
    )


if __name__ == "__main__":
    main()
