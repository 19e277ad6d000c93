"""The wheel with its base requirements alone, in an environment of its own: clients ask, servers say what they lack."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from demo_model import QUESTION
from http_serving import serving
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ANSWER = "141"

PROGRAM = """
import sys
from expertmesh.client import Client
with Client(sys.argv[1]) as client:
    print(*(piece.text for piece in client.chat(sys.argv[2])), sep="")
for name in ("rich", "typer"):
    assert name not in sys.modules
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as served:
        yield served.mesh.gateway.server.address


@pytest.fixture(scope="module")
def bin_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, and link what it asks for from the environment of the tests: nothing is downloaded."""
    directory = tmp_path_factory.mktemp("bare")
    python = directory / "bin" / "python"
    for command in (
        ("venv", "--without-pip", directory),
        ("hatchling", "build", "--target", "wheel", "--directory", directory),
        (
            "pip",
            "--python",
            python,
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--find-links",
            directory,
            "expertmesh",
        ),
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=True, timeout=120)
    [site_packages] = directory.glob("lib/*/site-packages")
    [installed] = distributions(path=[str(site_packages)])
    for needed in find_needed(installed):
        link_files(needed, site_packages)
    return python.parent


def find_needed(installed: Distribution) -> Iterable[Distribution]:
    """Return what a distribution asks for without its extras, and what that asks for."""
    needed: dict[str, Distribution] = {}
    pending = [installed]
    while pending:
        for requirement in map(Requirement, pending.pop().requires or ()):
            is_asked_for = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            name = canonicalize_name(requirement.name)
            if is_asked_for and name not in needed:
                needed[name] = distribution(name)
                pending.append(needed[name])
    return needed.values()


def link_files(needed: Distribution, site_packages: Path) -> None:
    """Link file by file, as distributions share folders."""
    for file in needed.files or ():
        if ".." not in file.parts:
            (site_packages / file).parent.mkdir(parents=True, exist_ok=True)
            (site_packages / file).symlink_to(needed.locate_file(file))


def run(*command: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command with no trace of the environment of the tests."""
    environment = {"COLUMNS": "200"}
    return subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60, env=environment)


def test_a_program_asks(bin_directory: Path, address: str):
    done = run(bin_directory / "python", "-I", "-c", PROGRAM, address, QUESTION)
    assert (done.stderr, ANSWER in done.stdout) == ("", True)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("generate", QUESTION), ANSWER),
        (("chat",), ANSWER),
        (("top", "--once", "--interval", "0.1"), "balance"),
    ],
)
def test_commands_that_ask_need_no_extra(bin_directory: Path, address: str, command: tuple[str, ...], shown: str):
    done = run(bin_directory / "expertmesh", *command, "--endpoint", address, typed=QUESTION)
    assert (done.returncode, shown in done.stdout) == (0, True), done


COMMANDS = {
    "up": ("--model", "DIR"),
    "gateway": ("--model", "DIR", "--local-experts"),
    "expert": ("--model", "DIR", "--experts", "0"),
    "inspect": ("DIR",),
    "split": ("DIR", "OUT"),
    "quantize": ("DIR", "OUT"),
    "plan": ("DIR", "--gpu", "l4=1"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_other_commands_have_help_and_say_what_they_lack(bin_directory: Path, name: str):
    assert "Exit codes:" in run(bin_directory / "expertmesh", name, "--help").stdout
    done = run(bin_directory / "expertmesh", name, *COMMANDS[name])
    [line] = done.stderr.splitlines()
    extra = name if name in ("gateway", "expert") else "all"
    assert line.startswith(f"error: expertmesh {name} needs ")
    assert line.endswith(f", which is not installed; pip install 'expertmesh[{extra}]' would be right")
    assert (done.returncode, done.stdout) == (1, "")
