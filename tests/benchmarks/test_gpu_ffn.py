"""All of ``gpu_ffn.py`` but what asks a CUDA device: the reference backend on a CPU, and a clock that is made up."""

import json
import math
from dataclasses import dataclass

import gpu_ffn
import pytest
import torch
from device_clock import CaptureError, CudaClock
from peers.torch_ffn import GroupedMatmul
from report import show

from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.cpu import CpuBackend

TINY = gpu_ffn.Sizes(gpu_ffn.Shape(128, 256, 4, 2), (1, 5), copy_bytes=1024, product_size=16)
CPU = torch.device("cpu")
PEERS = {
    16: [gpu_ffn.Peer("grouped", GroupedMatmul)],
    4: [gpu_ffn.Peer("int4", lambda experts, device: CpuBackend().experts(experts))],
}
CASES = [f"{name}, {num_tokens} tokens" for name in gpu_ffn.FORMATS for num_tokens in TINY.tokens]


@dataclass
class CountingClock:
    """Runs each call, and says that the first took a second, the next two; a replay of it takes half as long.

    With ``uncaptured`` = N, the first N calls that are timed both ways have no replay.
    """

    uncaptured: int = 0
    num_calls: int = 0

    def call_seconds(self, run):
        run()
        self.num_calls += 1
        return float(self.num_calls)

    def replay_seconds(self, run):
        if self.uncaptured:
            self.uncaptured -= 1
            raise CaptureError("the rows are counted on the host")
        return self.num_calls / 2


def measured(clock):
    return list(gpu_ffn.measure(TINY, gpu_ffn.Sides(create_backend("reference", CPU), PEERS, clock)))


def test_every_format_is_laid_beside_its_peers(tmp_path):
    rows = measured(CountingClock())
    show("on a CPU", rows, tmp_path / "rows.json")
    for metric in ("p50_seconds", "replay_p50_seconds"):
        pairs = [(row.case, row.peer) for row in rows if row.metric == metric]
        assert [case for case, peer in pairs if peer == "grouped"] == CASES
        assert [case for case, peer in pairs if peer == "int4"] == ["W4 g128, 1 tokens", "W4 g128, 5 tokens"]
    assert all(math.isfinite(number) and number > 0 for row in rows for number in (row.value, row.limit_value or 1))
    assert not any(row.note for row in rows)


def test_replays_are_those_of_the_side_that_the_row_names():
    rows = [row for row in measured(CountingClock()) if row.metric.endswith("p50_seconds")]
    calls = {(row.case, row.peer): row for row in rows if row.metric == "p50_seconds"}
    replays = {(row.case, row.peer): row for row in rows if row.metric == "replay_p50_seconds"}
    assert calls.keys() == replays.keys()
    for key, row in replays.items():
        assert (2 * row.value, 2 * row.peer_value) == (calls[key].value, calls[key].peer_value)


def test_a_peer_that_cannot_be_captured_says_so_in_its_row():
    peers = {"grouped": gpu_ffn.Times(4.0, None, "it asks the host")}
    call, replay = gpu_ffn.compare("case", gpu_ffn.Times(3.0, 1.0), peers, 0.5)
    assert (call.value, call.peer_value, call.note) == (3.0, 4.0, None)
    assert (replay.value, replay.peer_value, replay.note) == (1.0, None, "no replay of grouped: it asks the host")


def test_where_ours_cannot_be_captured_the_peers_replays_are_listed_alone():
    peers = {"grouped": gpu_ffn.Times(4.0, 2.0)}
    call, replay = gpu_ffn.compare("case", gpu_ffn.Times(3.0, None, "it asks the host"), peers, 0.5)
    assert (call.value, call.peer_value, call.note) == (3.0, 4.0, "no replay of ours: it asks the host")
    assert (replay.metric, replay.value, replay.peer) == ("replay_p50_seconds of grouped", 2.0, None)


def test_what_fails_to_be_captured_is_not_the_end():
    rows = measured(CountingClock(uncaptured=len(TINY.tokens)))
    notes = [row.note for row in rows if row.note]
    assert notes == ["no replay of grouped: the rows are counted on the host"] * len(CASES)


def test_a_peer_that_computes_something_else_is_refused():
    halved = [gpu_ffn.Peer("halved", lambda experts, device: lambda *args: GroupedMatmul(experts, device)(*args) / 2)]
    sides = gpu_ffn.Sides(create_backend("reference", CPU), {16: halved}, CountingClock())
    with pytest.raises(SystemExit, match="differs by 1 at 1 tokens"):
        list(gpu_ffn.measure(TINY, sides))


@pytest.mark.gpu
def test_the_small_case_runs_on_a_device(tmp_path):
    file = tmp_path / "rows.json"
    gpu_ffn.main(["--small", "--json", str(file)])
    cases = {row["case"] for row in json.loads(file.read_text())}
    assert cases >= {f"{name}, {num_tokens} tokens" for name in gpu_ffn.FORMATS for num_tokens in gpu_ffn.SMALL.tokens}


@pytest.mark.gpu
def test_a_call_without_the_host_is_captured_and_one_with_it_is_not():
    x = torch.ones(1 << 20, device="cuda")
    clock = CudaClock()
    assert clock.replay_seconds(lambda: x + x) > 0
    with pytest.raises(CaptureError):
        clock.replay_seconds(lambda: x.sum().item())
    assert clock.replay_seconds(lambda: x + x) > 0
    assert clock.call_seconds(lambda: x.sum().item()) > 0
