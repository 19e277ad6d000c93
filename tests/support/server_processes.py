"""Servers as people start them: processes of the command line, killed at the latest when a test ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
from waiting import SECONDS, wait_until

from expertmesh.rpc.sockets import free_port

COMMAND = (sys.executable, "-m", "expertmesh.cli.main")
# So long may a server take to start where many are started at once.
START_SECONDS = 4 * SECONDS


@dataclass(frozen=True)
class ServerProcess:
    """A process of the command line, and the address of what it serves."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def get(self, path: str) -> tuple[int, dict] | None:
        """What a path is answered with, if anybody listens."""
        try:
            reply = httpx.get(f"{self.url}{path}", timeout=SECONDS)
        except httpx.TransportError:
            return None
        return reply.status_code, reply.json()

    def wait_for(self, path: str, status: int) -> dict:
        """Ask until the status is ``status``; returns the body."""
        return wait_until(lambda: self._has(path, status), START_SECONDS)

    def _has(self, path: str, status: int) -> dict | None:
        assert self.process.poll() is None, self.log.read_text()
        answer = self.get(path)
        return answer[1] if answer is not None and answer[0] == status else None


@contextmanager
def started(directory: Path, *arguments: str, listen: str, output: IO[bytes] | None = None) -> Iterator[ServerProcess]:
    """Run a command that listens at a free port, given by the flag ``listen``; what it prints is in the log."""
    address, log = f"127.0.0.1:{free_port()}", directory / f"{arguments[0]}.log"
    with log.open("wb") as file:
        command = [*COMMAND, *arguments, listen, address, "--device", "cpu", "--threads", "1"]
        streams = output or file
        process = subprocess.Popen(command, stdout=streams, stderr=streams, start_new_session=True, env=os.environ)
    try:
        yield ServerProcess(process, address, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def ready_gateway(model: Path, *flags: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """Run a gateway with all experts; yields its process, its address of gRPC and its URL once it says it is ready."""
    grpc, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    serve = [*COMMAND, "gateway", "--model", str(model), "--local-experts", "--threads", "1", "--log-level", "error"]
    command = [*serve, "--listen", grpc, "--http-listen", http, *flags]
    env = {**os.environ, **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready: gateway on ")
            yield process, grpc, f"http://{http}"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
