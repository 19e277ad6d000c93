"""Keeps an engine process running: starts it, starts it again when it dies, ends it. Knows a command, not an engine."""

import asyncio
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from expertmesh.errors import ExpertmeshError

_log = logging.getLogger(__name__)

END_SECONDS = 10.0
MIN_RESTART_SECONDS = 0.1
MAX_RESTART_SECONDS = 30.0
# An engine that lived this long did not die of its start: its next one waits the shortest time again.
HEALTHY_SECONDS = 60.0


@dataclass(frozen=True)
class EngineCommand:
    """How an engine process is started: its command line, and what it reads from standard input."""

    argv: tuple[str, ...]
    settings: bytes = field(repr=False)


@contextmanager
def socket_directory() -> Iterator[Path]:
    """Make a directory for a socket that nobody else may enter."""
    directory = Path(tempfile.mkdtemp(prefix="expertmesh-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class EngineSupervisor:
    """One engine process at a time, for as long as ``run`` runs."""

    def __init__(
        self,
        command: EngineCommand,
        has_loaded: Callable[[], bool],
        why_broken: Callable[[], Awaitable[ExpertmeshError | None]],
    ) -> None:
        """``has_loaded`` tells whether any engine has been able to load its model, ``why_broken`` what it said if not.

        One that cannot load its model is not repeated.
        """
        self._command = command
        self._has_loaded = has_loaded
        self._why_broken = why_broken
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the engine, if there is one."""
        return self._process.pid if self._process else None

    async def run(self) -> None:
        """Keep an engine running until cancelled, and end it then.

        ExpertmeshError when one ends before any has loaded its model.
        """
        pause = MIN_RESTART_SECONDS
        try:
            while True:
                started = time.monotonic()
                code = await self._run_once()
                if not self._has_loaded():
                    raise await self._why_broken() or ExpertmeshError(
                        f"the engine process ended with exit code {code} while it loaded the model"
                    )
                if time.monotonic() - started > HEALTHY_SECONDS:
                    pause = MIN_RESTART_SECONDS
                _log.error("the engine process ended with exit code %d; starting it again in %g s", code, pause)
                await asyncio.sleep(pause)
                pause = min(4 * pause, MAX_RESTART_SECONDS)
        finally:
            await self._end()

    async def _run_once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self._command.argv,
            stdin=asyncio.subprocess.PIPE,
            # Ctrl-C reaches the whole foreground group; the engine goes on until its last client is served.
            start_new_session=True,
            env=dict(os.environ),
        )
        assert self._process.stdin is not None
        self._process.stdin.write(self._command.settings)
        self._process.stdin.close()
        return await self._process.wait()

    async def _end(self) -> None:
        """Ask the engine to end, and kill it when it does not."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
