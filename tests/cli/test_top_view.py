from io import StringIO

import pytest
from rich.console import Console

from expertmesh.cli.top_view import Frame, duration, expert_rows, heat_strip
from expertmesh.client import (
    ExpertLoad,
    ExpertRates,
    GatewayLoad,
    Load,
    LoadRates,
    LoadUpdate,
    ReplicaLoad,
)
from expertmesh.errors import GatewayError

GATEWAY = GatewayLoad(6, 2, 0.25, 100, 200, 100, 40, 3)


def expert(index: int, by_layer: tuple[int, ...] = (10, 30), **replicas: int) -> ExpertLoad:
    replicas = replicas or {"ready": 1}
    ready = replicas.get("ready", 0)
    return ExpertLoad(index, sum(by_layer), by_layer, 0.5, 3, ready, 4, 5.5, 2_000_000, 1_500_000_000, 7, replicas)


def replica(number: int) -> ReplicaLoad:
    return ReplicaLoad(f"10.0.0.{number}:50052", (0, 1), True, 1234, 5, 6, 2_000_000, 3_000_000, 4_000, 5_000, "ready")


def rates(*by_layer: tuple[float, ...]) -> LoadRates:
    total = sum(map(sum, by_layer)) or 1.0
    experts = tuple(
        ExpertRates(index, sum(layers), layers, sum(layers) / total) for index, layers in enumerate(by_layer)
    )
    return LoadRates(1.0, 12.0, 34.0, experts, 0.75)


def update(rates: LoadRates | None = None, num_replicas: int = 2, **replicas: int) -> LoadUpdate:
    experts = (expert(0), expert(1, **replicas))
    return LoadUpdate(Load(experts, tuple(map(replica, range(num_replicas))), 0.9, GATEWAY), rates)


def draw(frame: Frame, width: int = 120, height: int = 30) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height)
    console.print(frame)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def words(line: str) -> str:
    return " ".join(line.split())


def test_everything_is_there_in_a_wide_terminal():
    lines = draw(Frame("tiny at a:1", update(rates((1.0, 9.0), (3.0, 3.0)))))
    assert lines[0] == "tiny at a:1"
    assert lines[1] == (
        "running 6 · waiting 2 · KV 25% · 34 tokens/s · prompt 12 tokens/s · known prompts 40% · preempted 3 · "
        "balance 0.75"
    )
    assert words(lines[3]) == "expert rows/s share queue flying demand p50 p99 again replicas layers"
    assert words(lines[4]) == "0 10 62.5% 4 3 5.5 2 ms 1.5 s 7 1 ░░░▓▓▓"
    assert words(lines[8]) == "replica state experts calls failed flying p50 p99 queue kernels"
    assert words(lines[9]) == "10.0.0.0:50052 ready 0-1 1,234 5 6 2 ms 3 ms 4 µs 5 µs"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("height", [8, 14, 24])
@pytest.mark.parametrize("num_replicas", [0, 2, 40])
def test_a_live_picture_fits_its_terminal(width, height, num_replicas):
    lines = draw(Frame("a" * 300, update(rates((1.0, 9.0), (3.0, 3.0)), num_replicas), is_live=True), width, height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_what_does_not_fit_is_counted():
    lines = draw(Frame("a", update(rates((1.0, 9.0), (3.0, 3.0)), 40), is_live=True), height=20)
    num_shown = sum("10.0.0." in line for line in lines)
    assert f"and {40 - num_shown} more" in lines[-1]


def test_of_many_experts_the_busiest_are_shown():
    loads = tuple(expert(index) for index in range(128))
    many = LoadUpdate(
        Load(loads, (replica(0),), 0.9, GATEWAY), rates(*((float(index % 10), 1.0) for index in range(128)))
    )
    lines = draw(Frame("a", many, is_live=True), height=20)
    assert len(lines) <= 20
    shown = [int(line.split()[0]) for line in lines if line.split() and line.split()[0].isdecimal()]
    assert shown == [9, 19, 29, 39, 49, 59, 69, 79, 89, 99, 109, 119, 8]
    assert "and 115 experts with less" in lines
    printed = draw(Frame("a", many), height=20)
    assert sum(bool(line.split()) and line.split()[0].isdecimal() for line in printed) == 128


def test_a_printed_picture_is_as_long_as_it_needs_to_be():
    lines = draw(Frame("a", update(rates((1.0, 9.0), (3.0, 3.0)), 40)), height=10)
    assert sum("10.0.0." in line for line in lines) == 40


def test_a_quiet_time_shows_what_was_since_the_start_and_says_so():
    quiet = update(rates((0.0, 0.0), (0.0, 0.0)))
    assert [(row.tokens_per_second, row.share, row.layers) for row in expert_rows(quiet)] == [(0.0, 0.5, (1, 1))] * 2
    assert "since the start" in "\n".join(draw(Frame("a", quiet)))
    assert "since the start" not in "\n".join(draw(Frame("a", update(rates((1.0, 9.0), (3.0, 3.0))))))


def test_layers_are_measured_against_the_even_share():
    rows = expert_rows(update(rates((1.0, 6.0), (3.0, 0.0))))
    assert [row.layers for row in rows] == [(0.5, 2.0), (1.5, 0.0)]


def test_an_expert_without_replicas_and_an_error_are_said():
    lines = draw(Frame("a", update(None, ready=0, connecting=2), GatewayError("gateway gone")))
    assert lines[1] == "gateway gone; trying again"
    assert "0 +2 not ready" in "\n".join(lines)


def test_before_the_first_update_there_is_only_a_title():
    assert draw(Frame("a", None)) == ["a", ""]


def test_layers_share_cells_where_there_is_no_room_for_all():
    assert heat_strip((0.0, 0.5, 1.0, 1.5, 2.0), 5).plain == "·░▒▓█"
    assert heat_strip((1.0, 1.0, 3.0, 3.0), 2).plain == "▒█"
    assert heat_strip((1.0, 3.0), 7).plain == "▒▒▒███"
    assert heat_strip((1.0,), 0).plain == heat_strip((), 5).plain == ""


@pytest.mark.parametrize(
    ("nanoseconds", "text"), [(0, "-"), (1500, "2 µs"), (2_650_000, "2.65 ms"), (61_000_000_000, "61 s")]
)
def test_durations_have_a_unit(nanoseconds, text):
    assert duration(nanoseconds) == text
