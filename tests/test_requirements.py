"""What pyproject.toml asks for is what the code imports, in the base and with each extra."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

# The package is asked for whose own interface these are.
BROUGHT = {"aiohttp": "kubernetes", "pydantic": "fastapi", "pydantic-core": "fastapi", "starlette": "fastapi"}
# Imported where wanted, with words of its own where missing: by the extra that brings it.
OPTIONAL = {
    "opentelemetry": "tracing",
    "mistral_common": "tekken",
    "gguf": "gguf",
    "httpx": "bench",
    "httpx_sse": "bench",
    "matplotlib": "bench",
}
# torch's builds for GPUs bring it, and nothing else has a use for it.
WITH_TORCH = {"triton"}
# uvicorn imports it where it is there.
NOT_BY_US = {"httptools"}

ASKS = (
    "expertmesh.client",
    "expertmesh.cli.generate",
    "expertmesh.cli.chat",
    "expertmesh.cli.top",
    "expertmesh.cli.bench",
)
SERVES_EXPERTS = ("expertmesh.expert", "expertmesh.cli.expert")
SERVES_USERS = ("expertmesh.gateway", "expertmesh.cli.gateway", "expertmesh.cli.gateway_processes")


class ImportFinder(ast.NodeVisitor):
    """Collects what a module imports, be it a module or a name in one, but not what type checkers alone see."""

    def __init__(self, in_functions: bool) -> None:
        self.found: set[str] = set()
        self._in_functions = in_functions

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        if self._in_functions:
            self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.module and not node.level
        self.found |= {f"{node.module}.{alias.name}" for alias in node.names}


def find_modules() -> Iterator[tuple[str, Path]]:
    for root in PYPROJECT["tool"]["hatch"]["build"]["dev-mode-dirs"]:
        for path in (ROOT / root / "expertmesh").glob("**/*.py"):
            yield ".".join(path.relative_to(ROOT / root).with_suffix("").parts).removesuffix(".__init__"), path


MODULES = dict(find_modules())


@cache
def read_imports(module: str, in_functions: bool) -> set[str]:
    finder = ImportFinder(in_functions)
    finder.visit(ast.parse(MODULES[module].read_text()))
    return finder.found


def find_packages(entries: Iterable[str], in_functions: bool = True) -> set[str]:
    """Follow the imports of modules, and of all in a package, to the top-level packages of others."""
    reached = {module for module in MODULES if any(f"{module}.".startswith(f"{entry}.") for entry in entries)}
    pending, packages = list(reached), set()
    while pending:
        for name in read_imports(pending.pop(), in_functions):
            parts = name.split(".")
            if parts[0] != "expertmesh":
                packages.add(parts[0])
            ours = {".".join(parts[:end]) for end in range(2, len(parts) + 1)} & MODULES.keys() - reached
            reached |= ours
            pending += ours
    return packages - set(sys.stdlib_module_names)


def name_requirements(packages: set[str], declared: set[str]) -> set[str]:
    """Name the distributions that have packages: of several, those that are declared."""
    known = packages_distributions()
    owners = [{canonicalize_name(one) for one in known.get(package, [package])} for package in packages]
    brought = [{BROUGHT.get(one, one) for one in names} for names in owners]
    return set().union(*((names & declared) or names for names in brought))


def read_extra(extra: str) -> set[str]:
    """Return the names of what an extra brings, and of the base."""
    return read_names(PROJECT["dependencies"]) | read_names(PROJECT["optional-dependencies"][extra])


def read_names(requirements: Iterable[str]) -> set[str]:
    names = set()
    for requirement in map(Requirement, requirements):
        is_own = requirement.name == PROJECT["name"]
        names |= set().union(*map(read_extra, requirement.extras)) if is_own else {canonicalize_name(requirement.name)}
    return names


BASE = read_names(PROJECT["dependencies"])


def test_the_base_is_what_a_client_and_the_commands_that_ask_import():
    packages = find_packages(ASKS) | find_packages(["expertmesh.cli.main"], in_functions=False)
    assert name_requirements(packages - OPTIONAL.keys(), BASE) == BASE


@pytest.mark.parametrize(
    ("extra", "entries"), [("expert", SERVES_EXPERTS), ("gateway", SERVES_USERS), ("all", ["expertmesh"])]
)
def test_an_extra_is_what_its_command_imports(extra: str, entries: Iterable[str]):
    declared = read_extra(extra)
    packages = find_packages([*entries, *ASKS]) - OPTIONAL.keys() - WITH_TORCH
    assert name_requirements(packages, declared) == declared - NOT_BY_US


@pytest.mark.parametrize(("package", "extra"), OPTIONAL.items())
def test_what_is_optional_comes_with_its_extra(package: str, extra: str):
    owners = {canonicalize_name(one) for one in packages_distributions().get(package, [package])}
    assert owners & read_names(PROJECT["optional-dependencies"][extra])


def test_developers_have_what_every_command_needs():
    assert read_extra("all") <= read_extra("dev")


def test_images_install_an_extra_with_those_that_it_names():
    command = [sys.executable, "docker/list_dependencies.py", "pyproject.toml", "all"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    assert read_names(listed.splitlines()) == read_extra("all") | read_names(PYPROJECT["build-system"]["requires"])
