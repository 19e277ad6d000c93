"""Compiles the C kernels at first use. Knows the compiler and the cache, not what the library holds.

A cached file is the library followed by the SHA-256 of its bytes, so that a file cut short is noticed before the loader
maps it. Its name is a hash of all that it was made from.
"""

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NAMES = ("dot.c", "int16dot.c", "int8dot.c", "half.c", "swiglu.c", "attention.c")
SOURCES = tuple(Path(__file__).with_name(name) for name in NAMES)
HEADERS = tuple(Path(__file__).with_name(name) for name in ("common.h", "dot.h"))
COMPILE_FLAGS = ("-O3", "-fopenmp", "-fPIC", "-c")
FLAGS_OF_THIS_MACHINE = ("-march=native",)
# No -fopenmp here: its symbols then come from the OpenMP runtime that torch has loaded, whose threads are warm.
LINK_FLAGS = ("-shared",)
NEEDED_FEATURES = frozenset({"__AVX2__", "__FMA__", "__F16C__"})
COMPILE_TIMEOUT_SECONDS = 120
DIGEST_BYTES = hashlib.sha256().digest_size


class BuildError(Exception):
    """The kernels cannot be built or loaded on this machine."""


def build(compiler: str, directory: Path) -> Path:
    """Return the file of the library for this machine, compiling it unless an intact one is in ``directory``.

    BuildError when the compiler is missing or fails, or the machine lacks AVX2, FMA or F16C.
    """
    macros = _run(compiler, *FLAGS_OF_THIS_MACHINE, "-dM", "-E", "-x", "c", os.devnull)
    missing = NEEDED_FEATURES - set(re.findall(r"__\w+__", macros))
    if missing:
        raise BuildError(f"{compiler} finds no {', '.join(sorted(missing))} on this machine")
    # The macros hold the compiler's version and the instructions of this processor.
    library = _prepare(directory) / f"kernels-{digest_inputs(macros)}.so"
    if not is_intact(library):
        compile_library(compiler, FLAGS_OF_THIS_MACHINE, library)
    return library


def digest_inputs(target: str) -> str:
    """Hash what a library for ``target`` is made from: sources, flags and the words that describe the target."""
    sources = (source.read_bytes() for source in (*SOURCES, *HEADERS))
    parts = (*sources, " ".join((*COMPILE_FLAGS, *LINK_FLAGS)).encode(), target.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def is_intact(library: Path) -> bool:
    """Tell whether the file is there and is what was written."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


def compile_library(compiler: str, target_flags: Sequence[str], library: Path) -> None:
    """Compile beside ``library`` and move the result there at once: others may be reading, or compiling the same."""
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        linked, objects = Path(scratch, library.name), [str(Path(scratch, f"{source.stem}.o")) for source in SOURCES]
        for source, compiled in zip(SOURCES, objects, strict=True):
            _run(compiler, *COMPILE_FLAGS, *target_flags, str(source), "-o", compiled)
        _run(compiler, *LINK_FLAGS, *objects, "-o", str(linked))
        with linked.open("ab") as file:
            file.write(hashlib.sha256(linked.read_bytes()).digest())
        os.replace(linked, library)


def default_directory() -> Path:
    """Where libraries are kept: ``$XDG_CACHE_HOME/expertmesh``, else ``~/.cache/expertmesh``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "expertmesh")


def _prepare(directory: Path) -> Path:
    """Make ``directory``; where it is not ours to write, make a private one, which the next process will not find."""
    # A home that cannot be told stays "~": relative, and no place to write to.
    if directory.is_absolute():
        with suppress(OSError):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(directory, os.W_OK | os.X_OK) and directory.stat().st_uid == os.getuid():
                return directory
    return Path(tempfile.mkdtemp(prefix="expertmesh-"))


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
