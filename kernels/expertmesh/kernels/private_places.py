"""Directories from which code is loaded: nobody but this user and root can have written it. Knows no code and no cache.

What is loaded runs as this user: whoever can put a file there, or another directory in its place, is this user.
"""

import atexit
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

ROOT = 0
MOUNTS = Path("/proc/self/mountinfo")
# Kubernetes lets everybody write its emptyDirs; everybody is the containers of one pod that mount it.
EMPTY_DIR = "/kubernetes.io~empty-dir/"


class SharedPlaceError(Exception):
    """Others could have written what is there; the message names the place and who."""


def private_directory(wanted: Path) -> Path:
    """Return ``wanted``, made with mode 0700 unless it is there; where others may write it, or nobody can, another.

    That one is new and goes with this process; a warning says why.
    """
    try:
        # A home that cannot be told stays "~": relative, and no place to write to.
        if not wanted.is_absolute():
            raise SharedPlaceError(f"{wanted} is no absolute path")
        directory = wanted.resolve()
        make_directory(directory)
        check_private(directory)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise SharedPlaceError(f"{directory} cannot be written")
    except (OSError, SharedPlaceError) as error:
        _log.warning("what is compiled is kept for this process alone, and not in %s: %s", wanted, error)
        return _temporary()
    return directory


def is_private(file: Path) -> bool:
    """Tell whether ``file`` is there and nobody else could have written it; a warning names one that somebody could."""
    try:
        check_private(file.parent.resolve() / file.name)
    except OSError:
        return False
    except SharedPlaceError as error:
        _log.warning("not used: %s", error)
        return False
    return True


def make_directory(directory: Path) -> None:
    """Make a directory and its parents, all of mode 0700, but for those that are there."""
    for place in reversed((directory, *directory.parents)):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)


def check_private(path: Path) -> None:
    """Return if ``path``, which goes through no link, can be changed and replaced by this user and root alone.

    Raises SharedPlaceError, or OSError when it is not there.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise SharedPlaceError(f"{path} is a link")
    _check_owner(path, found)
    if _others_may_write(found):
        raise SharedPlaceError(f"others may write {path}: its mode is {stat.S_IMODE(found.st_mode):04o}")
    for parent in path.parents:
        found = parent.lstat()
        _check_owner(parent, found)
        # Where the sticky bit is set, nobody can rename what others own.
        if _others_may_write(found) and not found.st_mode & stat.S_ISVTX and parent not in _empty_dirs():
            raise SharedPlaceError(
                f"others may replace what is in {parent}: its mode is {stat.S_IMODE(found.st_mode):04o}"
            )


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid not in (ROOT, os.geteuid()):
        raise SharedPlaceError(f"{path} is owned by user {found.st_uid}, and this is user {os.geteuid()}")


def _others_may_write(found: os.stat_result) -> bool:
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _temporary() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="expertmesh-")).resolve()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _empty_dirs() -> Iterator[Path]:
    """Yield where emptyDirs of Kubernetes are mounted: what is mounted and where are the fourth and the fifth field."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, _, mounted, where, *_ = line.split(" ")
        if EMPTY_DIR in f"{mounted}/":
            yield Path(where)
