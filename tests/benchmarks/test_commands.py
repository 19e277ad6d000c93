"""Every command of ``benchmarks/`` runs: its small case, in this process where it starts no others itself."""

import importlib
import json
import math
import re
import sys
from pathlib import Path

import cpu_peers
import pytest
import torch

BENCHMARKS = Path(cpu_peers.__file__).parent
COMMANDS = sorted(
    file.stem for file in BENCHMARKS.glob("*.py") if re.search("^def main", file.read_text(), re.MULTILINE)
)
# Each case starts servers; these two run all that the others do, but for flags of ``expertmesh up`` and llama.cpp.
ARGUMENTS = {"serve_cases": ["prefix", "overhead"]}
NEEDS = {"triton_resources": "triton"}
# Others with this beginning need a CUDA device; the small case of these runs on any.
ON_ANY_DEVICE = {"gpu_serve"}


@pytest.fixture
def process_state(monkeypatch):
    """Undo what a command does to its process: commands own it, tests share it."""
    num_threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("process_state")
@pytest.mark.parametrize("name", COMMANDS)
def test_the_small_case_runs(name, tmp_path):
    pytest.importorskip(NEEDS.get(name, "torch"))
    file = tmp_path / "rows.json"
    argv = [*ARGUMENTS.get(name, []), "--small", "--json", str(file)]
    main = importlib.import_module(name).main
    if name.startswith("gpu_") and name not in ON_ANY_DEVICE and not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="needs a CUDA device"):
            main(argv)
        return
    main(argv)
    rows = json.loads(file.read_text())
    assert rows
    for row in rows:
        numbers = [row[key] for key in ("value", "peer_value", "limit_value") if row[key] is not None]
        assert all(map(math.isfinite, numbers)), row


def test_an_engine_that_is_not_installed_is_named_and_left_out(tmp_path, capsys):
    rates = {}
    cpu_peers.measure(tmp_path, [cpu_peers.Engine("other", "peers.other", ("no_such_package",), ())], [], rates)
    assert rates == {}
    assert "other: skipped" in capsys.readouterr().out
