import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from expertmesh.cli.line_writer import LineWriter, open_output

# Writes into a file that may have 12 bytes, then into one that may have as many as it likes.
OVERFLOW = """
import resource, sys
from expertmesh.cli.line_writer import LineWriter
lines = LineWriter(1)
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (12, no_limit))
for line in ("first", "second", "third"):
    lines.write(line)
resource.setrlimit(resource.RLIMIT_FSIZE, (no_limit, no_limit))
lines.write("fourth")
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def read(descriptor: int) -> list[str]:
    return os.pread(descriptor, 10_000, 0).decode().splitlines()


def test_lines_are_written_one_by_one(file):
    lines = LineWriter(file)
    for line in ("one", "zwölf", "\ud800"):
        lines.write(line)
    assert read(file) == ["one", "zwölf", r"\ud800"]


def test_what_a_full_disk_does_not_take_is_counted_and_told(file):
    with open("/dev/full", "wb", buffering=0) as full:
        lines = LineWriter(full.fileno())
        lines.write("lost")
        lines.write("lost, too")
        os.dup2(file, full.fileno())
        lines.write("kept")
        lines.write("also kept")
    told = "2 lines before this one could not be written: No space left on device"
    assert read(file) == [told, "kept", "also kept"]


def test_a_reader_that_is_gone_ends_nothing(file):
    reading, writing = os.pipe()
    os.close(reading)
    lines = LineWriter(writing)
    lines.write("lost")
    os.dup2(file, writing)
    lines.write("kept")
    os.close(writing)
    assert read(file) == ["1 lines before this one could not be written: Broken pipe", "kept"]


def test_a_line_that_was_cut_is_ended_before_the_next(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", OVERFLOW], stdout=log, timeout=60, check=True)
    assert (tmp_path / "log").read_text().splitlines() == [
        "first",
        "second"[:6],
        "2 lines before this one could not be written: File too large",
        "fourth",
    ]


def test_output_is_standard_output(capfd):
    open_output()("a line")
    assert capfd.readouterr().out == "a line\n"
