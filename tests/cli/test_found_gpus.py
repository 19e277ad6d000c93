"""What ``inspect`` and ``plan`` say of the GPUs of a machine."""

import pytest
from pretended_gpus import GB, pretend_gpus
from typer.testing import CliRunner

from expertmesh.cli.main import app
from expertmesh.errors import ConfigError


@pytest.fixture(scope="module")
def model(make_mixtral):
    return str(make_mixtral(group_size=64).directory)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def output(*arguments):
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    return " ".join(result.stdout.replace("│", " ").split())


def test_inspect_names_them_and_what_fits(monkeypatch, model):
    pretend_gpus(monkeypatch, "NVIDIA L4", "NVIDIA L4", memory_bytes=24 * GB)
    text = output("inspect", model)
    assert "GPUs here 2 x NVIDIA L4, 24 GB" in text
    assert "fit on NVIDIA L4, 24 GB 8 experts" in text


def test_inspect_says_that_there_are_none(monkeypatch, model):
    pretend_gpus(monkeypatch)
    assert "GPUs here none" in output("inspect", model)


def test_plan_takes_those_that_it_finds(monkeypatch, model):
    pretend_gpus(monkeypatch, "NVIDIA L4", "NVIDIA L4", memory_bytes=24 * GB)
    found = output("plan", model)
    assert found.startswith("GPUs here: 2 x NVIDIA L4, 24 GB")
    assert output("plan", model, "--gpu", "l4=2") in found


def test_plan_wants_to_be_told_where_it_finds_none(monkeypatch, model):
    pretend_gpus(monkeypatch)
    with pytest.raises(ConfigError, match="no GPU is found here"):
        output("plan", model)
