"""The example clients, run as a person would, against the shipped model."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest
from integration_mesh import run_mesh

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "examples" / "clients"
MODEL = ROOT / "examples" / "tiny-mixtral" / "awq"
KEY = "secret"


def run(*command: str | Path, **environment: str) -> str:
    """Run ``command ADDRESS`` beside a mesh that wants a key; returns what it prints."""

    async def main() -> str:
        async with run_mesh(MODEL, hosts=None, backend="cpu", api_keys=(KEY,)) as mesh:
            process = await asyncio.create_subprocess_exec(
                *command,
                mesh.client.endpoint,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "EXPERTMESH_API_KEY": KEY, **environment},
            )
            output, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, errors.decode()
        return output.decode()

    return asyncio.run(main())


def test_the_client_of_the_package_answers():
    first, *others = run(sys.executable, CLIENTS / "python_client.py").splitlines()
    assert first == "141"
    assert [line.partition(" (")[0] for line in others] == [
        "Add 123 and 45. 168",
        "Spell 'tiger'. t-i-g-e-r",
        "Translate 'red' from English to French. rouge",
    ]


def test_generated_stubs_suffice():
    assert run(sys.executable, CLIENTS / "python_stubs.py", PYTHONPATH=str(ROOT / "protos" / "gen")) == "141\n"


def test_node_needs_only_the_protos():
    node = shutil.which("node")
    if node is None or not (CLIENTS / "node" / "node_modules").is_dir():
        pytest.skip("needs node, and `npm install` in examples/clients/node")
    assert run(node, CLIENTS / "node" / "client.mjs") == "141\n"
