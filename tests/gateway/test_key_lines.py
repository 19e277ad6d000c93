import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from expertmesh.errors import ConfigError
from expertmesh.gateway import key_lines
from expertmesh.gateway.key_lines import count_plain, format_line, parse_lines, parse_words
from expertmesh.gateway.keys import Key, Scope, digest_of

HASH = hashlib.sha256(b"secret").hexdigest()
EVERYTHING = frozenset({Scope.ADMIN})


def test_a_file_has_a_key_a_line_with_what_is_known_of_it():
    text = f"""# people
    anna

    sha256:{HASH.upper()}  name=bert scopes=load,generate expires=2030-01-31T13:00:00+01:00  # until May
    #carl
    dora expires=2030-01-31
    """
    assert parse_lines(text, "keys") == (
        Key(digest_of("anna")),
        Key(
            digest_of("secret"),
            "bert",
            frozenset({Scope.LOAD, Scope.GENERATE}),
            datetime(2030, 1, 31, 12, tzinfo=UTC),
        ),
        Key(digest_of("dora"), expires=datetime(2030, 1, 31, tzinfo=UTC)),
    )
    assert count_plain(text) == 2


def test_the_example_of_the_module_can_be_read():
    [example] = [line for line in (key_lines.__doc__ or "").splitlines() if line.strip().startswith("sha256:")]
    [key] = parse_lines(example, "keys")
    assert (key.name, key.scopes, key.expires) == ("anna", {Scope.GENERATE}, datetime(2030, 1, 31, tzinfo=UTC))
    assert format_line(key) == example.strip().replace("2030-01-31", "2030-01-31T00:00:00Z")


@pytest.mark.parametrize(
    "key",
    [
        Key(digest_of("a")),
        Key(digest_of("b"), "carl@work", frozenset({Scope.LOAD, Scope.GENERATE})),
        Key(digest_of("c"), "dora", EVERYTHING, datetime(2030, 1, 31, 1, 2, 3, 4, tzinfo=UTC)),
    ],
)
def test_what_is_written_is_read_as_the_same(key):
    assert parse_lines(format_line(key), "keys") == (key,)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sesame words", "what follows the key"),
        ("sesame name=a name=b", "each once"),
        ("sesame name=a/b", "name=a/b is not 1 to 64"),
        ("sesame name=", "name= is not"),
        ("sesame scopes=load,words", "scopes=load,words; generate, load, admin are"),
        ("sesame scopes=", "scopes=; generate"),
        ("sesame expires=soon", "expires=soon; such as 2030-01-31"),
        ("sha256:sesame", "64 hexadecimal digits"),
        (f"sha256:{HASH}0", "64 hexadecimal digits"),
        (f"sha256:{hashlib.sha256(b'').hexdigest()}", "the hash of nothing"),
        ("good", "this is the key of line 2 again"),
        (f"sha256:{hashlib.sha256(b'good').hexdigest()} name=x", "this is the key of line 2 again"),
    ],
)
def test_a_line_that_is_wrong_is_named_and_not_shown(line, words):
    with pytest.raises(ConfigError, match="the file, line 3: ") as error:
        parse_lines(f"# keys\ngood\n{line}\n", "the file")
    assert words in str(error.value)
    assert "sesame" not in str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_a_file_without_a_key_is_named(text):
    with pytest.raises(ConfigError, match="the file holds no API key"):
        parse_lines(text, "the file")


def test_keys_of_flags_are_words():
    assert parse_words(["anna", "bert"]) == (Key(digest_of("anna")), Key(digest_of("bert")))
    for wrong in ("", "secret word", " secret"):
        with pytest.raises(ConfigError, match="--api-key") as error:
            parse_words([wrong])
        assert "secret" not in str(error.value)


def test_the_example_of_the_docs_can_be_read():
    document = Path(__file__).parents[2] / "docs" / "api.md"
    [example] = re.findall(r"^```\n(# whose keys.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    assert [key.name for key in parse_lines(example, "docs")] == ["anna", "watcher"]
