import subprocess
import sys

import pytest
from serving.memory_log import MB, Course, MemoryLog

# Starts a child and stays until told; takes memory in between.
SCRIPT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print("started", flush=True)
input()
taken = b"1" * 50_000_000
print("grown", flush=True)
input()
child.communicate(b"\\n")
"""


def test_a_process_and_its_children_are_followed():
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        log = MemoryLog(process.pid)
        for said in ("started", "grown"):
            assert process.stdout.readline() == f"{said}\n"
            log.note()
            process.stdin.write("\n")
            process.stdin.flush()
    parent, child = log.courses.values()
    assert parent is log.courses[process.pid]
    assert parent.resident_bytes[1] - parent.resident_bytes[0] == pytest.approx(50 * MB, rel=0.1)
    assert len(child.seconds) == 2


def test_a_slope_is_that_of_what_came_after_the_warm_up():
    course = Course("a process", [0, 60, 120, 180], [0, int(500 * MB), int(502 * MB), int(504 * MB)])
    assert course.mb_per_minute(since=60) == pytest.approx(2)
    assert course.mb_per_minute(since=180) is None
