"""Compiles the C kernels at first use. Knows the compiler and the cache, not what the library holds.

A cached file is the library followed by the SHA-256 of its bytes, so that a file cut short is noticed before the loader
maps it. Its name is a hash of all that it was made from.
"""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from expertmesh.kernels.native.isa import Variant
from expertmesh.kernels.private_places import is_private, private_directory

NAMES = ("matrix.c", "dot.c", "int16dot.c", "int8dot.c", "dense.c", "swiglu.c", "attention.c")
SOURCES = tuple(Path(__file__).with_name(name) for name in NAMES)
HEADERS = tuple(Path(__file__).with_name(name) for name in ("common.h", "tiles.h", "matrix.h", "dot.h"))
COMPILE_FLAGS = ("-O3", "-ffp-contract=off", "-fopenmp", "-fPIC", "-c")
# No -fopenmp here: its symbols then come from the OpenMP runtime that torch has loaded, whose threads are warm.
LINK_FLAGS = ("-shared",)
COMPILE_TIMEOUT_SECONDS = 120
DIGEST_BYTES = hashlib.sha256().digest_size


class BuildError(Exception):
    """The kernels cannot be built or loaded on this machine."""


def build(compiler: str, directory: Path, variant: Variant) -> Path:
    """Return the file of the library for ``variant``, compiling it unless an intact one is in ``directory``.

    It is kept elsewhere, and one that is there is not taken, where anybody else could have written it. BuildError when
    the compiler is missing or fails.
    """
    library = private_directory(directory) / file_name(variant, _run(compiler, "--version"))
    if not (is_private(library) and is_intact(library)):
        compile_library(compiler, variant.flags, library)
    return library


def file_name(variant: Variant, compiler_version: str = "") -> str:
    """Name the library of ``variant`` after what it is made from: sources, flags and, where it matters, a compiler."""
    sources = (source.read_bytes() for source in (*SOURCES, *HEADERS))
    words = (*COMPILE_FLAGS, *LINK_FLAGS, *variant.flags, compiler_version)
    digest = hashlib.sha256(b"\0".join((*sources, " ".join(words).encode()))).hexdigest()[:32]
    return f"kernels-{variant.name}-{digest}.so"


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
        linked.chmod(0o700)  # not as the umask has it: what a group may write is not loaded again
        os.replace(linked, library)


def default_directory() -> Path:
    """Where libraries are kept: ``$XDG_CACHE_HOME/expertmesh``, else ``~/.cache/expertmesh``."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "expertmesh")


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        raise BuildError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
