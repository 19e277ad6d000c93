"""What images install is locked, by hashes, and is what pyproject.toml and constraints.txt ask for."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "docker" / "locks").glob("*.txt"))
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
# Images may be built on any of these; the rest of an environment is that of Linux on a common server.
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")


def environment(python: str, machine: str) -> dict[str, str]:
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def read_entries(lock: Path) -> list[str]:
    """Each requirement of a lock with its hashes, on one line."""
    return lock.read_text().replace("\\\n", " ").splitlines()


def read_pins(lines: list[str], where: Mapping[str, str]) -> dict[str, Requirement]:
    requirements = [Requirement(line.partition(" --hash")[0].strip()) for line in lines]
    return {canonicalize_name(one.name): one for one in requirements if not one.marker or one.marker.evaluate(where)}


def asked() -> list[Requirement]:
    command = [sys.executable, "docker/list_dependencies.py", "pyproject.toml", "all", "tracing", "gguf"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout
    return [Requirement(line) for line in listed.splitlines()]


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_is_exact_versions_with_hashes_from_no_place_in_particular(lock):
    for entry in read_entries(lock):
        requirement, *hashes = entry.split(" --hash")
        assert re.search(r"^[\w.-]+==[\w.+!-]+( ;|$)", requirement.strip()), entry
        assert hashes and len(HASH.findall(entry)) == len(hashes), entry
    assert not re.search(r"://|--(extra-)?index|--find-links|@ ", lock.read_text())


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_asked_for_is_locked(python, machine):
    where = environment(python, machine)
    pins = read_pins(read_entries(ROOT / "docker" / "locks" / "image.txt"), where)
    wanted = [one for one in [*asked(), *constraints()] if not one.marker or one.marker.evaluate(where)]
    for requirement in wanted:
        (pin,) = pins[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), f"{pin} for {requirement}: `make lock` would be right"


def test_images_install_nothing_without_hashes_but_ourselves():
    scripts = [ROOT / "Dockerfile", *(ROOT / "docker").glob("*.sh")]
    installs = [
        command
        for script in scripts
        for command in re.findall(r'pip"? install[^&\n]*', script.read_text().replace("\\\n", " "))
    ]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or command.split()[2:] == ["--no-deps", "--no-build-isolation", "/src"]
