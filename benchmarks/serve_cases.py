"""What serving is meant to reach, each goal as a case: expertmesh under load, beside itself or llama.cpp's server.

Usage: python benchmarks/serve_cases.py CASE... [--directory DIR] [--llama-server PROGRAM] [--requests N] [--small]
    [--json FILE]

clients      16 clients at a time: tokens per second beside llama.cpp's server (peers/build_llama_server.sh)
clients-a8   the same with --backend cpu-a8
prefix       time to the first token of prompts that share 2,000 tokens, beside prompts that share none
ping-pong    --micro-batches 2 beside 1, while every expert call takes 1 ms more
speculation  --speculate 4 beside 0, on answers that repeat themselves: only eight tokens are allowed
overhead     the share of a step of 16 sequences that the gateway spends in neither torch nor waiting for experts

The model is that of cpu_peers.py: two layers of Mixtral's real width, random weights, AWQ for expertmesh and Q4_0 for
llama.cpp. ``--directory`` keeps it for later runs (11 GB). expertmesh runs as ``expertmesh up`` starts it.
Needed are the extras dev and bench, and gguf for the file of llama.cpp.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpu_peers import checkpoint_directory
from peers.checkpoint import MIXTRAL, SMALL, write_checkpoints
from report import Row, parse_arguments, show, write_json
from serving.compare import Objective, compare
from serving.put import put
from serving.servers import Expertmesh, Gateway, LlamaServer, Server, expert_servers, started
from serving.trace import Trace, shares

from expertmesh.loadgen.lengths import Uniform
from expertmesh.loadgen.load import Load
from expertmesh.loadgen.pacing import Run
from expertmesh.loadgen.prompts import RandomPrompts, TokenIds

PIECES = TokenIds(range(1000, 32000))
OBJECTIVE = Objective(ttft_seconds=30.0, tpot_seconds=0.5)
CLIENTS = 16
PREFIX_TOKENS = 2000
CHAOS_SECONDS = "0.001"
NUM_DRAFTED = "4"
# Greedy answers over a few tokens soon go round in circles.
ALLOWED_IDS = range(1000, 1008)
ONLY_ALLOWED = {"logit_bias": {str(token_id): 100 for token_id in ALLOWED_IDS}}


@dataclass(frozen=True)
class Setting:
    """Where things are, and how many requests to send if not as many as a case likes; ``is_small``: one per client."""

    directory: Path
    llama_server: Path | None
    num_requests: int | None
    is_small: bool

    @property
    def model(self) -> Path:
        """The checkpoint of expertmesh."""
        return self.directory / "awq"

    def load(self, num_requests: int, prompt: int, output: int, clients: int = CLIENTS, shared: float = 0.0) -> Load:
        """Make a closed loop of equal requests."""
        prompts = RandomPrompts(PIECES, Uniform(prompt, prompt), shared)
        num_requests = self.num_requests or (clients if self.is_small else num_requests)
        return Load(prompts, Uniform(output, output), num_requests, num_clients=clients)


def clients(setting: Setting) -> list[Row]:
    """Compare throughput with llama.cpp's server."""
    return _beside_llama("clients", Expertmesh(setting.model), setting)


def clients_a8(setting: Setting) -> list[Row]:
    """Compare throughput with llama.cpp's server, which rounds activations to 8 bits, too."""
    return _beside_llama("clients-a8", Expertmesh(setting.model, ("--backend", "cpu-a8")), setting)


def _beside_llama(case: str, expertmesh: Expertmesh, setting: Setting) -> list[Row]:
    prompt, output = 128, 64
    load = setting.load(64, prompt, output)
    servers: list[Server] = [expertmesh]
    if setting.llama_server:
        servers.append(LlamaServer(setting.llama_server, _gguf(setting.directory), CLIENTS, prompt + output))
    return rows_of(case, [measure(server, load) for server in servers])


def _gguf(directory: Path) -> Path:
    from peers.gguf_file import write_gguf

    path = directory / "q4_0_vocabulary.gguf"
    write_gguf(directory / "bf16", path, directory / "awq")
    return path


def prefix(setting: Setting) -> list[Row]:
    """Compare equally long prompts, on one server: the ones share nothing, of the others all but 16 tokens is known."""
    length = PREFIX_TOKENS + 16
    loads = {
        name: setting.load(6, length, output=4, clients=1, shared=shared / length)
        for name, shared in (("uncached", 0), ("cached", PREFIX_TOKENS))
    }
    with started(Expertmesh(setting.model)) as target:
        runs = [put(load, replace(target, name=name), num_warmup=1) for name, load in loads.items()]
    return rows_of("prefix", runs)


def ping_pong(setting: Setting) -> list[Row]:
    """Compare two micro-batches with one."""
    load = setting.load(64, prompt=128, output=64)
    delay = ("--chaos-delay", CHAOS_SECONDS)
    runs = [
        measure(Expertmesh(setting.model, ("--micro-batches", count, *delay), f"{count} micro-batches"), load)
        for count in ("2", "1")
    ]
    return rows_of("ping-pong", runs)


def speculation(setting: Setting) -> list[Row]:
    """Compare drafts with none, for one client."""
    load = setting.load(8, prompt=32, output=128, clients=1)
    runs = [
        measure(Expertmesh(setting.model, ("--speculate", count), f"{count} drafted"), load, ONLY_ALLOWED)
        for count in (NUM_DRAFTED, "0")
    ]
    return rows_of("speculation", runs)


def overhead(setting: Setting) -> list[Row]:
    """Time the parts of steps from outside; see ``serving.trace.shares``."""
    load = setting.load(32, prompt=32, output=128)
    with tempfile.TemporaryDirectory(prefix="expertmesh-trace-") as temporary:
        path = Path(temporary) / "trace.json"
        with expert_servers(setting.model) as endpoints:
            program = ("serving.timed_gateway", str(path))
            measure(Gateway(setting.model, endpoints, program), load)
        mean = shares(Trace.read(path), CLIENTS)
    parts = {"torch": mean.torch, "rpc": mean.rpc, "neither": mean.neither, "loop": mean.loop}
    return [
        Row("overhead", "step_seconds", mean.step, "s"),
        Row("overhead", "num_steps", mean.num_steps, "steps"),
        *(Row("overhead", f"share_{name}", 100 * seconds / mean.step, "%") for name, seconds in parts.items()),
    ]


def measure(server: Server, load: Load, fields: Mapping[str, object] | None = None) -> Run:
    """Start a server, put the load on it, stop it; as many requests warm it up as there are clients."""
    with started(server) as target:
        all_fields = {**target.fields, **(fields or {})}
        return put(load, replace(target, fields=all_fields), load.num_clients or 0)


def rows_of(case: str, runs: list[Run]) -> list[Row]:
    """Compare the first run with the others."""
    return compare(f"{case}: {runs[0].name}", runs, OBJECTIVE)


CASES: dict[str, Callable[[Setting], list[Row]]] = {
    "clients": clients,
    "clients-a8": clients_a8,
    "prefix": prefix,
    "ping-pong": ping_pong,
    "speculation": speculation,
    "overhead": overhead,
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = parse_arguments(__doc__)
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--directory", type=Path, help="where checkpoints are kept for the next run")
    parser.add_argument("--llama-server", type=Path, metavar="PROGRAM", help="see peers/build_llama_server.sh")
    parser.add_argument("--requests", type=int, help="how many are measured, instead of each case's own number")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the checkpoint, measure and report."""
    arguments = parse(argv)
    shape = SMALL if arguments.small else MIXTRAL
    with checkpoint_directory(arguments.directory) as directory:
        write_checkpoints(directory / "bf16", directory / "awq", shape)
        setting = Setting(directory, arguments.llama_server, arguments.requests, arguments.small)
        rows: list[Row] = []
        for case in arguments.cases:
            measured = CASES[case](setting)
            show(f"{shape.num_layers} layers of a Mixtral of width {shape.hidden} under load", measured, None)
            rows += measured
    if arguments.json:
        write_json(rows, arguments.json)


if __name__ == "__main__":
    main()
