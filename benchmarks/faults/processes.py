"""A server process that can be killed, frozen and started as another. Knows signals, not what is served."""

import asyncio
import os
import signal
import sys
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from serving.servers import AS_IN_UP, BENCHMARKS

from expertmesh.cli.readiness import READY_FD, read_ready

# The state of a socket that is listened on, in /proc/net/tcp.
LISTENING = "0A"


@dataclass(frozen=True)
class Command:
    """A module of Python with its arguments, and what the environment has beside this process's."""

    module: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def but(self, *arguments: str, module: str | None = None) -> "Command":
        """Return the same with further arguments, of which the last of two flags counts, or of another module."""
        return Command(module or self.module, (*self.arguments, *arguments), self.environment)


class ServerProcess:
    """Runs ``command`` when it is well; use it in ``async with``, which kills it at the end.

    Only the main thread may start it: the kernel ends it together with the thread that did.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self._process: asyncio.subprocess.Process | None = None
        self._runs: Command | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None, "it was started"
        return self._process.pid

    async def __aenter__(self) -> "ServerProcess":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self, command: Command | None = None) -> str:
        """Start it, or another ``command`` in its place, and return where it serves once it does.

        RuntimeError when it ends before.
        """
        await self.kill()
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as pipe:
            try:
                self._process = await _run(command or self.command, writing)
            finally:
                os.close(writing)
            address = await read_ready(pipe)
        if address is None:
            code = await self._process.wait()
            raise RuntimeError(f"{command or self.command} ended with exit code {code}; its output above says why")
        self._runs = command or self.command
        return address

    async def kill(self) -> None:
        """End it at once, whatever it does, and return when it has."""
        self._runs = None
        if self._process is not None:
            self.send(signal.SIGKILL)
            await self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        assert self._process is not None, "it was started"
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def heal(self) -> None:
        """Have it run as it should, whatever was done to it."""
        if self._runs == self.command:
            self.send(signal.SIGCONT)
        else:
            await self.start()


async def _run(command: Command, ready_fd: int) -> asyncio.subprocess.Process:
    path = os.pathsep.join(filter(None, (BENCHMARKS, os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", command.module, *command.arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        env={**os.environ, **AS_IN_UP, "PYTHONPATH": path, **dict(command.environment), READY_FD: str(ready_fd)},
        pass_fds=(ready_fd,),
        # Should this process die, the kernel ends those in groups of their own, even when they are stopped.
        process_group=0,
    )


def listening_ports(pid: int) -> Set[int]:
    """TCP ports that a process listens on."""
    files = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            files.add(os.readlink(descriptor))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in files}
