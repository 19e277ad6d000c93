import subprocess
import sys

import pytest

from expertmesh.cli.logs import LEVELS, configure_logging
from expertmesh.errors import ConfigError

# A process of its own: logging is configured for a whole process, and pytest has configured this one.
SAY_ALL = """
import logging, sys
from expertmesh.cli.logs import configure_logging
configure_logging(sys.argv[1])
for level in ("debug", "info", "warning", "error"):
    getattr(logging.getLogger("some.module"), level)("said at %s", level)
"""


@pytest.mark.parametrize(("level", "num_lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_records_of_the_level_and_above_go_to_standard_error(level: str, num_lines: int):
    result = subprocess.run([sys.executable, "-c", SAY_ALL, level], capture_output=True, text=True, timeout=60)
    lines = result.stderr.splitlines()
    assert (result.stdout, len(lines)) == ("", num_lines)
    assert lines[0].endswith(f"{level.upper()} some.module: said at {level}")


@pytest.mark.parametrize("level", ["loud", "INFO", ""])
def test_an_unknown_level_is_named_with_the_known_ones(level: str):
    with pytest.raises(ConfigError, match=f"{level!r}.*{', '.join(LEVELS)}"):
        configure_logging(level)
