"""Child processes that are started together, restarted when they die and stopped together. Knows no expertmesh."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from expertmesh.cli.readiness import READY_FD, read_ready

MIN_RESTART_SECONDS = 0.2
MAX_RESTART_SECONDS = 10.0
# A child that lived this long was not dead on arrival: its next restart waits the shortest time again.
HEALTHY_SECONDS = 30.0


@dataclass(frozen=True)
class Program:
    """A command line under a name that stands before each line of its output.

    ``environment`` adds variables to those of this process. It is first started once the programs ``after`` which it
    comes are ready.
    """

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    after: tuple["Program", ...] = ()


class ChildFailedError(Exception):
    """A program ended before it was ready, with this exit ``code``, so that starting it again would not help."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} ended with exit code {code} before it was ready")
        self.code = code


class Supervisor:
    """Keeps programs running. Each tells through the pipe that it gets (``readiness``) once it serves, and where.

    All are started at once, but for those that come ``after`` others; they are stopped stage by stage, the last stage
    first. ``show`` gets the lines that each prints, under its name, and ``on_ready`` the addresses that it serves,
    again whenever it was started again.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Program]],
        show: Callable[[str, str], None],
        on_ready: Callable[[str, str], None],
    ) -> None:
        self._stages = stages
        self._programs = [program for stage in stages for program in stage]
        self._show = show
        self._on_ready = on_ready
        self._processes: dict[Program, asyncio.subprocess.Process] = {}
        self._ready: dict[Program, asyncio.Event] = {program: asyncio.Event() for program in self._programs}
        self._is_stopping = False

    def pid(self, program: Program) -> int:
        """Process id of the running instance of ``program``."""
        return self._processes[program].pid

    async def run(self) -> None:
        """Start every program and start it again when it ends, until cancelled; then stop them all.

        Raises ChildFailedError when a program ends before it has ever been ready.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for program in self._programs:
                    group.create_task(self._keep(program), name=program.name)
        except* ChildFailedError as errors:
            raise errors.exceptions[0] from None

    async def stop(self, grace_seconds: float) -> None:
        """Ask programs to end, the last stage first, and kill what is left of a stage after ``grace_seconds``."""
        self._is_stopping = True
        for ready in self._ready.values():  # what has not been started yet shall not wait for ever
            ready.set()
        for stage in reversed(self._stages):
            await asyncio.gather(*(self._stop(program, grace_seconds) for program in stage))

    async def _keep(self, program: Program) -> None:
        pause = MIN_RESTART_SECONDS
        for other in program.after:
            await self._ready[other].wait()
        while not self._is_stopping:
            started = time.monotonic()
            code = await self._run_once(program)
            if self._is_stopping:
                return
            if not self._ready[program].is_set():
                raise ChildFailedError(program.name, code)
            if time.monotonic() - started > HEALTHY_SECONDS:
                pause = MIN_RESTART_SECONDS
            self._show(program.name, f"ended with exit code {code}; starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_RESTART_SECONDS)

    async def _run_once(self, program: Program) -> int:
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as ready:
            try:
                process = await _start(program, writing)
            finally:
                os.close(writing)  # the child's alone now, so that it is closed when the child ends
            return await self._attend(program, process, ready)

    async def _attend(self, program: Program, process: asyncio.subprocess.Process, ready: BinaryIO) -> int:
        self._processes[program] = process
        try:
            if self._is_stopping:  # ``stop`` came while this one was being started, and did not see it
                process.kill()
            await asyncio.gather(self._relay(program, process), self._note_ready(program, ready))
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _relay(self, program: Program, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for raw in process.stdout:
            self._show(program.name, raw.decode(errors="replace").rstrip())

    async def _note_ready(self, program: Program, ready: BinaryIO) -> None:
        addresses = await read_ready(ready)
        if addresses is not None:
            self._ready[program].set()
            self._on_ready(program.name, addresses)

    async def _stop(self, program: Program, grace_seconds: float) -> None:
        process = self._processes.get(program)
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await process.wait()
        except TimeoutError:
            process.kill()


async def _start(program: Program, ready_fd: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *program.argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # Ctrl-C reaches the whole foreground group; children must wait for the supervisor to stop them in order.
        start_new_session=True,
        env={**os.environ, **dict(program.environment), READY_FD: str(ready_fd)},
        pass_fds=(ready_fd,),
    )
