"""Servers that a benchmark starts itself: expertmesh, and llama.cpp's own. Knows processes and flags, not load."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from expertmesh.checkpoint.configuration import read_configuration
from expertmesh.cli.local_servers import default_servers, default_threads, place_experts
from expertmesh.cli.ranges import format_ranges
from expertmesh.loadgen.client import Target
from expertmesh.rpc.sockets import free_port

START_SECONDS = 300.0
STOP_SECONDS = 60.0
# Both take it, and without it answers end where the model likes.
FULL_LENGTH = {"ignore_eos": True}
CONTEXT_MULTIPLE = 256
WARNINGS = "2"  # and errors, of llama-server
# What ``expertmesh up`` sets for its processes: threads that spin while they wait would take the cores from others.
AS_IN_UP = {"OMP_WAIT_POLICY": "PASSIVE"}
BENCHMARKS = str(Path(__file__).parents[1])


class Server(Protocol):
    """Something that can be put under load for as long as it is started."""

    @property
    def name(self) -> str:
        """What it is called in results."""
        ...

    def command(self, port: int) -> list[str]:
        """Return the command that serves HTTP on this port of 127.0.0.1."""
        ...

    @property
    def ready_path(self) -> str:
        """What answers 200 once requests are served."""
        ...

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that it is given on top of this process's."""
        ...


@dataclass(frozen=True)
class Expertmesh:
    """A gateway and expert servers as ``expertmesh up`` starts them, with further ``flags``."""

    model: Path
    flags: tuple[str, ...] = ()
    name: str = "expertmesh"
    ready_path: str = "/ready"
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, port: int) -> list[str]:
        """See ``Server``."""
        grpc, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{port}"
        up = [sys.executable, "-m", "expertmesh.cli.main", "up", "--model", str(self.model)]
        return [*up, "--listen", grpc, "--http-listen", http, *self.flags]


@dataclass(frozen=True)
class LlamaServer:
    """llama.cpp's server: ``slots`` requests are batched, each with room for ``slot_tokens``."""

    program: Path
    gguf: Path
    slots: int
    slot_tokens: int
    flags: tuple[str, ...] = ()
    name: str = "llama.cpp"
    ready_path: str = "/health"
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, port: int) -> list[str]:
        """See ``Server``."""
        context = self.slots * -(-self.slot_tokens // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE
        batching = ["-np", str(self.slots), "-cb", "-c", str(context)]
        threads = ["-t", str(os.cpu_count()), "-tb", str(os.cpu_count())]
        listen = ["--host", "127.0.0.1", "--port", str(port), "--no-ui", "--verbosity", WARNINGS]
        return [str(self.program), "-m", str(self.gguf), *batching, *threads, *listen, *self.flags]


@dataclass(frozen=True)
class Gateway:
    """A gateway alone, run by a module of the benchmarks and its arguments, for expert servers at ``endpoints``."""

    model: Path
    endpoints: tuple[str, ...]
    program: tuple[str, ...]
    name: str = "expertmesh"
    ready_path: str = "/ready"

    @property
    def environment(self) -> dict[str, str]:
        """See ``Server``."""
        paths = filter(None, (BENCHMARKS, os.environ.get("PYTHONPATH")))
        return {"PYTHONPATH": os.pathsep.join(paths), **AS_IN_UP}

    def command(self, port: int) -> list[str]:
        """See ``Server``."""
        listen = ["--listen", f"127.0.0.1:{free_port()}", "--http-listen", f"127.0.0.1:{port}"]
        experts = ["--experts", ",".join(self.endpoints), "--log-level", "warning"]
        return [sys.executable, "-m", *self.program, "gateway", "--model", str(self.model), *experts, *listen]


@contextmanager
def started(server: Server) -> Iterator[Target]:
    """Run a server until the end of the block; yields where it answers."""
    port = free_port()
    with running(server.command(port), server.environment) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url + server.ready_path, process)
        yield Target(server.name, url, fields=FULL_LENGTH)


@contextmanager
def expert_servers(model: Path) -> Iterator[tuple[str, ...]]:
    """Run expert servers as ``up`` does where nothing is said; yields their endpoints."""
    config, num_cores = read_configuration(model).model, os.cpu_count() or 1
    num_servers = default_servers(config.num_experts, num_cores)
    hosted = [format_ranges(experts) for experts in place_experts(config.num_experts, num_servers, {})]
    endpoints = tuple(f"127.0.0.1:{free_port()}" for _ in hosted)
    expert = [sys.executable, "-m", "expertmesh.cli.main", "expert", "--model", str(model), "--log-level", "warning"]
    threads = str(default_threads(num_servers, config.num_experts_per_token, num_cores))
    with ExitStack() as processes:
        for experts, endpoint in zip(hosted, endpoints, strict=True):
            command = [*expert, "--experts", experts, "--listen", endpoint, "--threads", threads]
            processes.enter_context(running(command, AS_IN_UP))
        yield endpoints


@contextmanager
def running(command: Sequence[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command for as long as the block takes; what it prints goes to standard error."""
    with subprocess.Popen(command, env={**os.environ, **environment}, stdout=sys.stderr) as process:
        try:
            yield process
        finally:
            process.terminate()
            _wait_or_kill(process)


def _wait_or_kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until ``url`` answers 200; RuntimeError if the process ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not _is_ready(url):
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with exit code {process.returncode}; its output above says why")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} did not answer 200 within {START_SECONDS:g} s")
        time.sleep(0.2)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
