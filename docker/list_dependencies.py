"""Print what a pyproject.toml says the project needs at run time, one requirement a line.

python list_dependencies.py PYPROJECT [EXTRA...]: with the extras named.
"""

import sys
import tomllib
from pathlib import Path

path, *extras = sys.argv[1:]
project = tomllib.loads(Path(path).read_text())["project"]
chosen = [project["optional-dependencies"][extra] for extra in extras]
print("\n".join(sum(chosen, project["dependencies"])))
