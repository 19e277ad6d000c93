"""A program in a terminal of its own."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SECONDS = 30.0


class Terminal:
    """What a person has: keys, and what is on the screen, without colours."""

    def __init__(self, descriptor: int, program: "subprocess.Popen[bytes]") -> None:
        self.program = program
        self._descriptor = descriptor
        self._seen = ""

    def press(self, keys: str) -> None:
        """Press keys; "\\r" is Enter, "\\x03" Ctrl-C."""
        os.write(self._descriptor, keys.encode())

    def wait_for(self, text: str) -> None:
        """Wait until ``text`` is shown, and forget what came before; AssertionError after half a minute."""
        end = time.monotonic() + SECONDS
        while text not in self._seen:
            assert time.monotonic() < end, self._seen
            self._seen += self._read()
        self._seen = self._seen.partition(text)[2]

    def rest(self) -> str:
        """Wait until the program is gone, and return what it has shown since."""
        while self.program.poll() is None:
            self._seen += self._read()
        return self._seen

    def _read(self) -> str:
        if not select.select([self._descriptor], [], [], 1.0)[0]:
            return ""
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # nobody has the other end open any more
            self.program.wait(SECONDS)
            return ""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))


# Ctrl-C reaches those whose terminal it is. Becoming that after a fork, in the many threads of a test, is not safe.
CLAIM_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "expertmesh.cli.main", *sys.argv[1:]])
"""


@contextmanager
def run_in_terminal(*arguments: str, into: Path | None = None) -> Iterator[Terminal]:
    """Run ``expertmesh`` with ``arguments``; its standard output may go ``into`` a file. It is killed at the end."""
    ours, theirs = pty.openpty()
    with ExitStack() as stack:
        stack.callback(os.close, ours)
        output = stack.enter_context(into.open("wb")) if into else theirs
        program = subprocess.Popen(
            [sys.executable, "-c", CLAIM_TERMINAL, *arguments],
            stdin=theirs,
            stdout=output,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
        )
        stack.enter_context(program)
        stack.callback(program.kill)
        os.close(theirs)
        yield Terminal(ours, program)
