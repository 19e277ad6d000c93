from pathlib import Path

import pytest

from expertmesh.cli.keys import read_keys
from expertmesh.errors import ConfigError


def test_keys_of_flags_come_before_those_of_the_file(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text("# people\nanna\n\n  bert  # until May\n#carl\n")
    assert read_keys(["flag"], path) == ("flag", "anna", "bert")
    assert read_keys([], None) == ()


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "two words\n"])
def test_a_file_without_a_key_on_each_line_is_named(tmp_path: Path, text: str):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError, match=str(path)) as error:
        read_keys([], path)
    assert "words" not in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=str(tmp_path)):
        read_keys([], tmp_path)


@pytest.mark.parametrize("key", ["", "secret word"])
def test_a_key_that_is_no_word_is_refused_and_not_shown(key: str):
    with pytest.raises(ConfigError, match="--api-key") as error:
        read_keys([key], None)
    assert "secret" not in str(error.value)
