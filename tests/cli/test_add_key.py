import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from expertmesh.cli.main import app
from expertmesh.errors import ConfigError
from expertmesh.gateway.key_lines import parse_lines
from expertmesh.gateway.key_ring import KeyRing
from expertmesh.gateway.keys import Scope


def add(path: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["add-key", str(path), *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    [secret] = done.stdout.splitlines()
    return secret


def test_a_new_key_is_printed_and_its_hash_is_added(tmp_path: Path):
    path = tmp_path / "keys"
    first = add(path, "anna")
    second = add(path, "bert", "--scopes", "load,generate", "--expires", "2999-01-31")
    text = path.read_text()
    assert first not in text and second not in text and first != second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = KeyRing((), path)
    anna, bert = ring.find(first), ring.find(second)
    assert anna and bert
    assert (anna.id, anna.scopes, anna.expires) == ("anna", {Scope.GENERATE}, None)
    assert (bert.id, bert.scopes) == ("bert", {Scope.GENERATE, Scope.LOAD})
    assert bert.expires == datetime(2999, 1, 31, tzinfo=UTC)


def test_what_is_in_the_file_stays(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text("# people\nplain")
    add(path, "anna")
    assert path.read_text().startswith("# people\nplain\nsha256:")
    assert len(parse_lines(path.read_text(), "keys")) == 2
    path.write_text("# nobody yet\n")
    add(path, "anna")
    assert len(parse_lines(path.read_text(), "keys")) == 1


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("two words\n", ["anna"], "line 1"),
        (None, ["an na"], "name=an na"),
        (None, ["anna", "--expires", "soon"], "expires=soon"),
        (None, ["anna", "--scopes", "all"], "scopes=all"),
    ],
)
def test_what_is_wrong_is_said_and_adds_nothing(tmp_path: Path, text, arguments, words):
    path = tmp_path / "keys"
    if text:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        CliRunner().invoke(app, ["add-key", str(path), *arguments], catch_exceptions=False)
    assert (path.read_text() if path.exists() else None) == text


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=str(tmp_path)):
        CliRunner().invoke(app, ["add-key", str(tmp_path), "anna"], catch_exceptions=False)
