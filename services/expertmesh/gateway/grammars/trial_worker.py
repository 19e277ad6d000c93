"""The engine's end of a process that tries grammars: starts, asks and ends it. Knows no event loop."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import msgspec

from expertmesh.engine.messages import EngineError
from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.grammars.verdict import Candidate, TrialSettings, Verdict

COMMAND = (sys.executable, "-m", "expertmesh.gateway.grammars.worker")


class TrialWorker:
    """One process at a time, from the first trial on; another one when it has died."""

    def __init__(self, settings: TrialSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, if there is one."""
        return self._process.pid if self._process else None

    def attempt(self, kind: str, source: str) -> int:
        """Have a grammar compiled, and return how many bytes that takes at most; blocks for seconds at most.

        InvalidRequestError when the grammar is wrong or beyond the limits, EngineError when the process fails.
        """
        try:
            verdict = self._ask(Candidate(kind, source))
        except (OSError, msgspec.DecodeError):
            self.close()
            raise EngineError("the process that tries grammars is gone; the request may be sent again") from None
        if verdict.failure is not None:
            raise EngineError(f"a grammar could not be tried: {verdict.failure}")
        if verdict.refusal is not None:
            raise InvalidRequestError(verdict.refusal, verdict.param)
        return verdict.num_bytes

    def stop(self) -> None:
        """End the process, from whichever thread: an attempt that goes on fails."""
        if (process := self._process) is not None:
            _kill(process)

    def close(self) -> None:
        """End the process and wait for that, outside of attempts."""
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            with suppress(BrokenPipeError), process:
                pass

    def _ask(self, candidate: Candidate) -> Verdict:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(candidate) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Verdict)

    def _start(self) -> "subprocess.Popen[bytes]":
        # In a session of its own: Ctrl-C reaches the whole foreground group, and who started this says when it ends;
        # its group is the process and the child at work.
        process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
        return process


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a process that has not been waited for, and its child: neither has anything to put in order."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
