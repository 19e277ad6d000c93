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

SAY_WHAT_STRANGERS_SENT = """
import logging
from expertmesh.cli.logs import configure_logging
configure_logging("info")
log = logging.getLogger("some.module")
forged = "x\\n2030-01-01 00:00:00,000 ERROR some.module: all is lost\\x1b[2J"
log.info("request %s", forged)
try:
    raise ValueError(forged)
except ValueError:
    log.exception("request %s failed", forged)
log.info("stack of %s", forged, stack_info=True)
"""

TAKE_WHAT_IS_NO_MESSAGE = """
import grpc
from expertmesh.cli.logs import configure_logging
from expertmesh.v1 import expert_pb2
configure_logging("info")
assert grpc._common.deserialize(b"\\xff", expert_pb2.GetInfoResponse.FromString) is None
"""

SAY_IT_ALL_THE_SAME = """
import logging
from expertmesh.cli.logs import configure_logging
configure_logging("info")
logging.getLogger("some.module").error("said", stack_info=True)
logging.getLogger("some.module").info("not %d arguments", 2, 2)
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


def test_what_strangers_sent_begins_no_line_and_controls_no_terminal():
    result = subprocess.run(
        [sys.executable, "-c", SAY_WHAT_STRANGERS_SENT], capture_output=True, text=True, timeout=60, check=True
    )
    records = [line for line in result.stderr.splitlines() if not line.startswith("    ")]
    assert [record.split()[2] for record in records] == ["INFO", "ERROR", "INFO"]
    assert all(r"x\n2030-01-01 00:00:00,000 ERROR some.module: all is lost\x1b[2J" in record for record in records)
    assert "    ValueError: x\n    2030-01-01" in result.stderr
    assert "\x1b" not in result.stderr


def test_a_message_of_a_peer_that_cannot_be_decoded_is_one_line():
    result = subprocess.run(
        [sys.executable, "-c", TAKE_WHAT_IS_NO_MESSAGE], capture_output=True, text=True, timeout=60, check=True
    )
    (line,) = result.stderr.splitlines()
    assert "Exception deserializing message! Error parsing message with type" in line


def test_a_full_disk_ends_nothing():
    with open("/dev/full", "w") as full:
        subprocess.run([sys.executable, "-c", SAY_IT_ALL_THE_SAME], stderr=full, timeout=60, check=True)
