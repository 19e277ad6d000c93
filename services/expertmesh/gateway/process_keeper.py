"""Keeps a process of the gateway's running: starts it, starts it again when it dies, ends it. Knows commands only."""

import asyncio
import logging
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)

END_SECONDS = 10.0
MIN_RESTART_SECONDS = 0.1
MAX_RESTART_SECONDS = 30.0
# A process that lived this long did not die of its start: its next one waits the shortest time again.
HEALTHY_SECONDS = 60.0


@dataclass(frozen=True)
class ProcessCommand:
    """How a process is started: its command line, and what it reads from standard input."""

    argv: tuple[str, ...]
    settings: bytes = field(repr=False)


async def _take_note(code: int) -> None:
    """Start it again, whatever it ended with."""


class ProcessKeeper:
    """One process at a time, for as long as ``run`` runs."""

    def __init__(
        self,
        name: str,
        command: ProcessCommand,
        on_end: Callable[[int], Awaitable[None]] = _take_note,
        end_seconds: float = END_SECONDS,
    ) -> None:
        """``on_end`` hears the exit code of each that ends by itself, and raises where another would not help.

        One that is asked to end gets ``end_seconds`` for it.
        """
        self._name = name
        self._command = command
        self._on_end = on_end
        self._end_seconds = end_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, if there is one."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep a process running until cancelled, and end it then; raises what ``on_end`` raises."""
        pause = MIN_RESTART_SECONDS
        try:
            while True:
                started = time.monotonic()
                code = await self._run_once()
                await self._on_end(code)
                if time.monotonic() - started > HEALTHY_SECONDS:
                    pause = MIN_RESTART_SECONDS
                _log.error("the %s ended with exit code %d; starting it again in %g s", self._name, code, pause)
                await asyncio.sleep(pause)
                pause = min(4 * pause, MAX_RESTART_SECONDS)
        finally:
            await self._end()

    async def _run_once(self) -> int:
        # Not in a thread, with which the child would end; nor by the event loop's own means, which would fork, of which
        # gRPC warns.
        self._process = subprocess.Popen(
            self._command.argv,
            stdin=subprocess.PIPE,
            # Ctrl-C reaches the whole foreground group; this process says when the others are to end.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as settings:
            settings.write(self._command.settings)
        return await asyncio.to_thread(self._process.wait)

    async def _end(self) -> None:
        """Ask the process to end, and kill it when it does not."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, self._end_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
