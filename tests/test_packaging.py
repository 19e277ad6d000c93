"""The lists of packages in pyproject.toml are whole, and each package is typed: no tool says what is left out of it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = PYPROJECT["tool"]
GENERATED_ROOT, *WRITTEN_ROOTS = SOURCE_ROOTS = TOOLS["hatch"]["build"]["dev-mode-dirs"]


# Only what this program gets wrong is said about it when the client is typed; else everything about it is Any.
TYPED_PROGRAM = """
from expertmesh.client import Client
from expertmesh.errors import InvalidRequestError

Client("127.0.0.1:50051").model_info().no_such_field
InvalidRequestError("").no_such_field
"""


def find_folders(*roots: str) -> list[Path]:
    """Find what has sources; a folder that a removed package left behind holds caches at most."""
    folders = (path for root in roots for path in (ROOT / root / "expertmesh").iterdir())
    return [folder for folder in folders if any(folder.glob("*.py"))]


def find_packages(*roots: str) -> set[str]:
    return {f"expertmesh.{folder.name}" for folder in find_folders(*roots)}


def read_contract(name: str) -> dict[str, Any]:
    return next(contract for contract in TOOLS["importlinter"]["contracts"] if contract["name"] == name)


def test_the_wheel_and_the_type_checker_take_every_source_root():
    assert TOOLS["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"{root}/expertmesh" for root in SOURCE_ROOTS]
    assert set(SOURCE_ROOTS) <= set(TOOLS["mypy"]["mypy_path"])


def test_the_type_checker_takes_every_package():
    assert set(TOOLS["mypy"]["packages"]) == find_packages(*WRITTEN_ROOTS)


def test_the_changelog_begins_with_this_version():
    heading = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert heading.startswith(f"## [{PYPROJECT['project']['version']}] - ")


def test_every_package_has_a_layer():
    layers = read_contract("Layers")["layers"]
    assert {name for layer in layers for name in layer.split(" | ")} == find_packages(*SOURCE_ROOTS)


def test_every_package_but_the_tracer_is_kept_from_opentelemetry():
    contract = read_contract("Only the tracer knows OpenTelemetry")
    assert set(contract["source_modules"]) == find_packages(*WRITTEN_ROOTS) - {"expertmesh.tracing"}


def test_every_package_says_that_it_is_typed():
    assert [folder for folder in find_folders(*SOURCE_ROOTS) if not (folder / "py.typed").exists()] == []


def test_users_of_the_client_see_its_types(tmp_path):
    (tmp_path / "program.py").write_text(TYPED_PROGRAM)
    roots = os.pathsep.join(str(ROOT / root) for root in SOURCE_ROOTS)
    command = [sys.executable, "-m", "mypy", "--config-file=", "program.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": roots}, capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        'program.py:5: error: "ModelInfo" has no attribute "no_such_field"  [attr-defined]',
        'program.py:6: error: "InvalidRequestError" has no attribute "no_such_field"  [attr-defined]',
        "Found 2 errors in 1 file (checked 1 source file)",
    ]
