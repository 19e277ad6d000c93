import pytest

from expertmesh.cli.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 7 ✓", "Größe 7 ✓"),
        ("a\nINFO b\r\tc", r"a\nINFO b\r\tc"),
        ("\x1b[2J\x9b1m\x7f\0", r"\x1b[2J\x9b1m\x7f\x00"),
        ("\u202egpj\u2028\ud800", r"\u202egpj\u2028\ud800"),
    ],
)
def test_what_is_not_visible_is_escaped(text, shown):
    assert printable(text) == shown
    assert shown.isprintable()


def test_lines_are_kept_where_they_are_wanted():
    assert printable_lines("a\n\x1bb\n") == "a\n\\x1bb\n"
