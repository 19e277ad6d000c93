"""Paths that the documents name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVICES = ROOT / "services" / "expertmesh"
PATH = re.compile(r"`([\w./-]+(?:/|\.py))`")


@pytest.mark.parametrize(
    ("document", "start", "base"),
    [("CONTRIBUTING.md", "| folder |", ROOT), ("docs/architecture.md", "| what happens |", SERVICES)],
)
def test_every_row_of_the_table_names_what_exists(document: str, start: str, base: Path):
    text = (ROOT / document).read_text()
    _, _, *rows = text[text.index(start) :].partition("\n\n")[0].splitlines()
    assert all(PATH.search(row) for row in rows)
    assert [path for row in rows for path in PATH.findall(row) if not (base / path).exists()] == []
