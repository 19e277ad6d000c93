"""The lists of packages in pyproject.toml are whole: what one of them forgot would go unchecked without a word."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
GENERATED_ROOT, *WRITTEN_ROOTS = SOURCE_ROOTS = TOOLS["hatch"]["build"]["dev-mode-dirs"]


def find_packages(*roots: str) -> set[str]:
    """Name what has sources; a folder that a removed package left behind holds caches at most."""
    folders = (path for root in roots for path in (ROOT / root / "expertmesh").iterdir())
    return {f"expertmesh.{folder.name}" for folder in folders if any(folder.glob("*.py"))}


def read_contract(name: str) -> dict[str, Any]:
    return next(contract for contract in TOOLS["importlinter"]["contracts"] if contract["name"] == name)


def test_the_wheel_and_the_type_checker_take_every_source_root():
    assert TOOLS["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"{root}/expertmesh" for root in SOURCE_ROOTS]
    assert TOOLS["mypy"]["mypy_path"] == SOURCE_ROOTS


def test_the_type_checker_takes_every_package():
    assert set(TOOLS["mypy"]["packages"]) == find_packages(*WRITTEN_ROOTS)


def test_every_package_has_a_layer():
    layers = read_contract("Layers")["layers"]
    modules = {f"expertmesh.{path.stem}" for path in ROOT.glob("services/expertmesh/*.py")}
    assert {name for layer in layers for name in layer.split(" | ")} == find_packages(*SOURCE_ROOTS) | modules


def test_every_package_but_the_tracer_is_kept_from_opentelemetry():
    contract = read_contract("Only the tracer knows OpenTelemetry")
    assert set(contract["source_modules"]) == find_packages(*WRITTEN_ROOTS) - {"expertmesh.tracing"}
