"""What the documents show is run as it stands: programs against a mesh, commands as far as their flags."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml
from http_serving import serving

from expertmesh.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/README.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_group(app).commands


def find_blocks(language: str) -> list[tuple[str, str]]:
    """Return the document and the text of each block in a language; "" is that of shells."""
    found = ((document.relative_to(ROOT), block) for document in DOCUMENTS for block in FENCE.findall(read(document)))
    return [(str(name), text) for name, (tag, text) in found if tag == language]


def read(document: Path) -> str:
    return document.read_text()


def find_commands() -> list[tuple[str, str]]:
    """Return the document and each line that begins with ``expertmesh``, with the lines that continue it."""
    blocks = ((name, text.replace("\\\n", " ")) for name, text in find_blocks(""))
    lines = ((name, line) for name, text in blocks for line in text.splitlines())
    return [(name, line) for name, line in lines if line.startswith("expertmesh ")]


@pytest.fixture(scope="module")
def served():
    with serving() as served:
        yield served


@pytest.mark.parametrize(("document", "program"), find_blocks("python"))
def test_programs_run(served, document, program):
    address = served.mesh.gateway.server.address
    exec(program.replace("127.0.0.1:50051", address).replace("http://127.0.0.1:8000", served.url), {})


@pytest.mark.parametrize(("document", "line"), find_commands())
def test_commands_have_the_flags_that_are_shown(document, line):
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index("|")] if "|" in words else words
    name, *arguments = [word for word in words if word not in ("[-]", "&")]
    COMMANDS[name].make_context(name, arguments)


@pytest.mark.parametrize(("document", "text"), find_blocks("yaml"))
def test_yaml_can_be_read(document, text):
    assert yaml.safe_load(text)
