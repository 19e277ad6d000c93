"""Clients of Node.js, by its own test runner."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from demo_model import ANSWER, QUESTION

pytestmark = pytest.mark.clients

FOLDER = Path(__file__).parent / "node"
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="there is no node on the PATH")
@pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason=f"needs `npm install` in {FOLDER.name}/")
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_clients_of_node(gateway, name):
    asked = {"GATEWAY_URL": gateway.v1, "GATEWAY_KEY": gateway.key, "GATEWAY_MODEL": gateway.model}
    asked |= {"ASKED_QUESTION": QUESTION, "ASKED_ANSWER": ANSWER}
    command = [NODE, "--test", FOLDER / name]
    result = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
