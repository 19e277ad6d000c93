"""What is said of published checkpoints of real size, of which there are only the headers."""

import json
import re

import pytest
from published import MIXTRAL_8X22B, OLMOE, QWEN3_MOE, write_headers
from typer.testing import CliRunner

from expertmesh.cli.main import app

# By the arithmetic of their sizes: parameters times two bytes, of all, of the gateway, of an expert in all layers.
MODELS = {
    "Mixtral-8x22B": (MIXTRAL_8X22B, 281_260_142_592, 10_677_202_944, 56 * 3 * 6144 * 16384 * 2),
    "Qwen3-30B-A3B": (QWEN3_MOE, 61_064_245_248, 3_082_186_752, 48 * 3 * 2048 * 768 * 2),
    "OLMoE-1B-7B": (OLMOE, 13_838_323_712, 953_421_824, 16 * 3 * 2048 * 1024 * 2),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    config, *sizes = MODELS[request.param]
    return write_headers(tmp_path_factory.mktemp("model"), config), config, sizes


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_inspect_tells_their_sizes(model):
    directory, config, sizes = model
    found = json.loads(run("inspect", directory, "--json"))
    num_experts = config.get("num_local_experts") or config["num_experts"]
    assert [found["total_bytes"], found["gateway_bytes"]] == sizes[:2]
    assert found["expert_bytes"] == sizes[2:] * num_experts
    assert (found["num_layers"], found["num_experts"]) == (config["num_hidden_layers"], num_experts)
    assert re.search(rf"experts 0-{num_experts - 1} .* each", run("inspect", directory))


def test_plan_finds_room_for_all_experts_and_more_speed_for_more_gpus(model):
    directory, config, _ = model
    values = directory / "values.json"
    text = run("plan", directory, "--gpu", "h100=16@4", "--gpu", "l4=16@0.8", "--values", values)
    plans = re.findall(r"│ (?:→|  *) │ +[^│]+│ +([\d,]+) │", text)
    assert len(plans) > 1
    written = json.loads(values.read_text())
    num_experts = config.get("num_local_experts") or config["num_experts"]
    assert written["model"]["numExperts"] == num_experts
    hosted = [int(expert) for group in written["experts"]["groups"].values() for expert in group["experts"].split(",")]
    assert sorted(hosted) == list(range(num_experts))
