import shutil
from pathlib import Path

import pytest
from faults.measure import Outcome
from faults.mesh import Transport
from faults.scenarios import SCENARIOS
from faults.table import write_table

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
PLACE = (
    "# Title\n\n<!-- make chaos: GRPC -->\nold\n<!-- end -->\n\n<!-- make chaos: TCP -->\nkept\n<!-- end -->\nlast\n"
)


def outcome(**values) -> Outcome:
    numbers = {"num_requests": 7, "num_differing": 0, "longest_wait": 0.3, "p99_wait": 0.05, "throughput": 0.9}
    return Outcome(SCENARIOS[1], Transport.GRPC, errors=(), **{**numbers, **values})


def test_a_table_replaces_that_of_its_transport_and_nothing_else(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(PLACE)
    for requests in (7, 8):
        write_table(file, Transport.GRPC, [outcome(num_requests=requests)], "Then and there:")
    text = file.read_text()
    before, _, after = text.partition("<!-- end -->")
    assert before.startswith("# Title\n\n<!-- make chaos: GRPC -->\nThen and there:\n\n| ")
    assert before.endswith(
        f"| killed | {SCENARIOS[1].what} | {SCENARIOS[1].promise} | 8 | 0 | 0 | 0.30 s | 50 ms | 0.90 |\n"
    )
    assert after == PLACE.partition("<!-- end -->")[2]


def test_a_document_without_a_place_is_left_alone(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("# Title\n")
    with pytest.raises(ValueError, match="no place for a table"):
        write_table(file, Transport.UNIX, [outcome()], "")
    assert file.read_text() == "# Title\n"


def test_the_page_on_reliability_has_a_place_for_every_transport(tmp_path):
    file = Path(shutil.copy(PAGE, tmp_path))
    for transport in Transport:
        write_table(file, transport, [outcome()], "Then and there:")
    assert file.read_text().count("\nThen and there:\n") == len(Transport)
