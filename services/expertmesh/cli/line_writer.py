"""Lines for whoever watches a server. Knows a descriptor, not what is said: a full disk must not end a server."""

import os
import sys
from collections.abc import Callable

STDOUT, STDERR = 1, 2


class LineWriter:
    """Writes lines to ``descriptor``. What cannot be written is dropped and counted, and the next line says so."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._num_dropped = 0
        self._reason = ""
        self._is_amid_line = False

    def write(self, line: str) -> None:
        """Write ``line``, whole where there is room; never raises OSError."""
        try:
            if self._num_dropped:
                self._write(f"{self._num_dropped} lines before this one could not be written: {self._reason}")
                self._num_dropped = 0
            self._write(line)
        except OSError as error:
            self._num_dropped += 1
            self._reason = error.strerror or type(error).__name__

    def _write(self, line: str) -> None:
        # Past Python's own buffer, which would keep what cannot be written and be in the way of the next line.
        begin = "\n" if self._is_amid_line else ""
        left = f"{begin}{line}\n".encode(errors="backslashreplace")
        while left:
            left = left[os.write(self._descriptor, left) :]
            self._is_amid_line = bool(left)


def open_output() -> Callable[[str], None]:
    """Return what writes a line to standard output; on a terminal it is ``print``, of which progress bars know."""
    return _print if sys.stdout.isatty() else LineWriter(STDOUT).write


def _print(line: str) -> None:
    print(line, flush=True)
