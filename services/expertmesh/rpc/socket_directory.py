"""Directories for Unix sockets, and what killed processes left of theirs. Knows no socket's use."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PREFIX = "expertmesh-"
LOCK = "owner.lock"


@contextmanager
def socket_directory() -> Iterator[Path]:
    """Make a directory that nobody else may enter, for sockets; OSError where there is no place for it.

    Directories of processes that are dead are removed first. The owner of one holds a lock on a file in it, which the
    system lets go however the process ends.
    """
    _remove_abandoned()
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with open(directory / "new", "wb") as lock:
            _take(lock)
            # Under the name that others look for it has never been free.
            os.rename(lock.name, directory / LOCK)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # its owner lives, is another user, or has just removed it
            if path.lstat().st_uid == os.getuid():
                with open(path, "rb") as lock:
                    _take(lock)
                    shutil.rmtree(path.parent, ignore_errors=True)


def _take(lock: BinaryIO) -> None:
    """Lock a file for as long as it is open; BlockingIOError when it is locked."""
    import fcntl  # not everywhere, as Unix sockets are not

    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
