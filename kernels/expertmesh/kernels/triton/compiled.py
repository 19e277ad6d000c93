"""Where Triton keeps what it compiles and loads it from. Knows the directory, no kernel."""

import shutil
import sys
from pathlib import Path

from triton import knobs

from expertmesh.kernels.private_places import private_directory

# What images bring, which have no compiler: the module with which Triton loads the driver.
AHEAD = Path(sys.prefix, "share/expertmesh/triton-cache")


def choose_cache(ahead: Path = AHEAD) -> None:
    """Have Triton load nothing that others could have written; what was compiled ``ahead``, if anything, is put there.

    It is ``$TRITON_CACHE_DIR``, else ``~/.triton/cache``, where that is private.
    """
    directory = private_directory(Path(knobs.cache.dir))
    knobs.cache.dir = str(directory)
    if ahead.is_dir():
        shutil.copytree(ahead, directory, dirs_exist_ok=True)
