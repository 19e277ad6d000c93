"""Running helm on the chart. Knows the command line, not what comes out."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "helm" / "expertmesh"
GOLDEN = HERE / "golden"
# Golden render: its values.
RENDERS = {
    "default": HERE / "values" / "default.yaml",
    "full": HERE / "values" / "full.yaml",
    "cpu-demo": CHART / "values-cpu-demo.yaml",
}
KUBE_VERSION = "1.34.0"
TIMEOUT_SECONDS = 60


def needs(program):
    """Skip a test where ``program`` is not on PATH."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program} on PATH")


def helm(*arguments, check=True):
    """Run helm and return what it did."""
    done = subprocess.run(["helm", *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert not check or done.returncode == 0, done.stderr
    return done


def render(values_file, *settings):
    """Render the chart as release ``mesh`` in namespace ``serving``; returns helm's result."""
    arguments = [part for setting in settings for part in ("--set-json", setting)]
    return helm(
        "template", "mesh", CHART, "--namespace", "serving", "--kube-version", KUBE_VERSION, "-f", values_file,
        *arguments, check=False,
    )  # fmt: skip


def objects(text):
    """The objects of a rendered text."""
    return [document for document in yaml.safe_load_all(text) if document]
