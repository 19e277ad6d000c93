"""Print what a pyproject.toml says the project needs to be built and at run time, one requirement a line.

python list_dependencies.py PYPROJECT [EXTRA...]: with the extras named, and those that they name.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def list_dependencies(project: dict[str, Any], extras: Iterable[str]) -> list[str]:
    """List what the project and its extras ask for, each once."""
    chosen = (one for extra in extras for one in expand(project, extra))
    return list(dict.fromkeys([*project["dependencies"], *chosen]))


def expand(project: dict[str, Any], extra: str) -> Iterator[str]:
    """Yield what an extra asks for, and in place of NAME[EXTRA,...] what those extras of the project itself do."""
    for requirement in project["optional-dependencies"][extra]:
        if own := re.fullmatch(rf"{project['name']}\[(.+)\]", requirement):
            for other in own[1].split(","):
                yield from expand(project, other)
        else:
            yield requirement


if __name__ == "__main__":
    path, *extras = sys.argv[1:]
    pyproject = tomllib.loads(Path(path).read_text())
    print("\n".join([*pyproject["build-system"]["requires"], *list_dependencies(pyproject["project"], extras)]))
