"""What ``gpu_serve.py`` writes and works out; its small case, in test_commands.py, runs the engines."""

from dataclasses import replace

import gpu_serve
import pytest
import torch
from peers.awq_checkpoint import write_awq
from peers.cases import CASES, WIDE_CASES
from peers.checkpoint import SMALL, Shape

from expertmesh.checkpoint.reader import Checkpoint
from expertmesh.checkpoint.summary import summarize
from expertmesh.kernels import cuda_devices
from expertmesh.kernels.backends import create_backend
from expertmesh.kernels.quantize import dequantize
from expertmesh.model.decoder import Decoder

CPU = torch.device("cpu")
TINY = Shape(hidden=256, ffn=512, num_layers=1, num_experts=4, num_heads=2, num_kv_heads=1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("awq")
    write_awq(directory, TINY, CPU)
    return directory


def test_the_checkpoint_can_be_loaded_and_its_products_keep_their_size(directory):
    checkpoint = Checkpoint.open(directory)
    Decoder.load(checkpoint.model, checkpoint, create_backend("reference", CPU), torch.float32)
    x = torch.randn(64, TINY.hidden, generator=torch.Generator().manual_seed(0))
    product = x @ dequantize(checkpoint.expert(0, 1).w_gate).T
    assert 0.8 < product.std() < 1.25


def test_what_is_there_is_kept_and_another_shape_refused(directory):
    before = (directory / "ends.safetensors").stat()
    write_awq(directory, TINY, CPU)
    assert (directory / "ends.safetensors").stat() == before
    with pytest.raises(ValueError, match="another num_hidden_layers; give another directory"):
        write_awq(directory, replace(TINY, num_layers=2), CPU)


def test_a_step_of_many_rows_reads_every_expert_and_of_one_row_its_own(directory):
    one, many = (
        gpu_serve.decode_limit(directory, replace(CASES[0], batch=batch), bytes_per_second=1e9) for batch in (1, 1000)
    )
    summary = summarize(Checkpoint.open(directory))
    shared = summary.gateway_bytes - 2 * 32000 * TINY.hidden
    assert one == pytest.approx(1e9 / (shared + 2 * summary.expert_bytes[0]))
    assert many == pytest.approx(1000 * 1e9 / (shared + 4 * summary.expert_bytes[0]))


def test_every_way_is_laid_beside_the_best_peer():
    case = WIDE_CASES[0].name
    rates = {
        "expertmesh local": {case: 6.0},
        "expertmesh 8 servers": {case: 3.0},
        "transformers bf16 eager": {case: 1.0},
        "transformers bf16 grouped_mm": {case: 2.0, CASES[0].name: 9.0},
    }
    rows = {(row.case, row.metric): row for row in gpu_serve.rows_of(rates, {case: 12.0})}
    best = "transformers bf16 grouped_mm"
    for name in ("expertmesh local", "expertmesh 8 servers"):
        row = rows[case, f"tokens_per_second {name}"]
        assert (row.value, row.peer, row.peer_value, row.limit_value) == (rates[name][case], best, 2.0, 12.0)
    assert rows[CASES[0].name, f"tokens_per_second {best}"].limit_value is None
    assert len(rows) == 5


def test_the_whole_case_wants_a_gpu(monkeypatch):
    monkeypatch.setattr(cuda_devices, "find_devices", lambda: ())
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        gpu_serve.main([])


def test_engines_that_are_not_installed_are_left_out(monkeypatch, tmp_path, capsys):
    missing = gpu_serve.Engine("vllm", "peers.vllm_awq", ("no_such_package",), ())
    monkeypatch.setattr(gpu_serve, "engines", lambda *_: [missing])
    assert list(gpu_serve.measure(gpu_serve.Setting(SMALL, "1", ("vllm",), ()), tmp_path, CPU)) == []
    assert "vllm: skipped" in capsys.readouterr().out
