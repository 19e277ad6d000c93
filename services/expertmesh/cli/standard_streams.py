"""Standard streams that fail as people expect: with a line, and never in the middle of one."""

import errno
import io
import os
import sys

from expertmesh.errors import ConfigError

# What writing ends with where there is no room, or nobody who reads.
CANNOT_WRITE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE, errno.EIO})


def open_streams() -> None:
    """Let whatever the encoding of a stream lacks be written as a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def read_input() -> str:
    """Read standard input to its end, without the newline that a shell puts there; ConfigError if it is no text."""
    try:
        text = sys.stdin.buffer.read().decode(sys.stdin.encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is no text in {error.encoding}: {error.reason}") from error
    return text.removesuffix("\n").removesuffix("\r")


def abandon_output() -> None:
    """Drop what is left for standard output: else the interpreter tries it again at its end, and complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
