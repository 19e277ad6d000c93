"""What an import of ours brings along in a fresh process; contracts in pyproject.toml say it of our own code alone."""

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, sys
name = sys.argv[1]
package = importlib.import_module(name)
for module in pkgutil.walk_packages(getattr(package, "__path__", ()), name + "."):
    importlib.import_module(module.name)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    "name",
    [
        "expertmesh.architectures",
        "expertmesh.checkpoint.contents",
        "expertmesh.client",
        "expertmesh.discovery.picker",
        "expertmesh.engine.blocks",
        "expertmesh.engine.door",
        "expertmesh.engine.request",
        "expertmesh.engine.scheduler",
        "expertmesh.gateway.process",
        "expertmesh.gateway.servable",
        "expertmesh.loadgen",
        "expertmesh.placement",
        "expertmesh.text",
    ],
)
def test_what_computes_nothing_does_not_import_torch(name: str):
    # ``gateway.process`` is all that an API process runs.
    subprocess.run([sys.executable, "-c", IMPORT_ALL, name], check=True, timeout=60)
