from expertmesh.cli.ask import print_stream, read_output
from expertmesh.client import JsonSchema, Output, Piece


def test_flags_become_what_is_asked_for(tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "string", "enum": ["é"]}', encoding="utf-8")
    assert read_output(None, None) == Output()
    asked = read_output(["a", "b"], schema)
    assert asked == Output(stop=["a", "b"], response_format=JsonSchema('{"type": "string", "enum": ["é"]}'))


def test_pieces_are_printed_as_one_text(capsys):
    pieces = [Piece(text, (1,), None, 0, 0) for text in ("one ", "two")]
    said: list[str] = []
    print_stream(pieces, said)
    assert said == ["one ", "two"]
    assert capsys.readouterr().out == "one two\n"
