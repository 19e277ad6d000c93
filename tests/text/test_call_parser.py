import json
import random

import pytest

from expertmesh.text.call_format import HERMES, MISTRAL, CallFormat, Mark
from expertmesh.text.call_parser import CallParser, CallPiece, join_calls

ARGUMENTS = ("{}", '{"a": [1, {"b": "}"}], "c": "\\"}\\\\"}', '{ "naïve" :\n  "<tool_call>{" }')
CONTROL = CallFormat(Mark("[TOOL_CALLS]", 5))


def written(call_format: CallFormat, text: str, arguments: list[str]) -> str:
    calls = [f'{{"name": "f{n}", "arguments": {one}}}' for n, one in enumerate(arguments)]
    return text + call_format.write(calls).replace(call_format.opening.text, call_format.opening.shown)


def parse(call_format: CallFormat, pieces: list[str]) -> tuple[str, list[CallPiece]]:
    parser = CallParser(call_format, make_id=lambda: "id")
    content, calls = "", []
    for piece in pieces:
        more, new = parser.push(piece)
        content += more
        calls += new
    return content + parser.flush(), calls


@pytest.mark.parametrize("call_format", [HERMES, MISTRAL, CONTROL], ids=["hermes", "mistral", "a control token"])
@pytest.mark.parametrize("text", ["", "Wait a <tool", " two\n\n"])
def test_however_an_answer_is_cut_its_calls_are_the_same(call_format: CallFormat, text: str):
    rng = random.Random(0)
    for _ in range(100):
        arguments = rng.choices(ARGUMENTS, k=rng.randint(1, 3))
        whole = written(call_format, text, arguments)
        cuts = sorted(rng.sample(range(len(whole)), min(len(whole), rng.randint(0, 12))))
        pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        content, calls = parse(call_format, pieces)
        joined = [(call.name, call.arguments) for call in join_calls(calls)]
        assert content == text.rstrip()
        assert joined == [(f"f{n}", one) for n, one in enumerate(arguments)]
        assert all(json.loads(one) is not None for _, one in joined)


@pytest.mark.parametrize("text", ["", "a < b", "the end <tool_", "blanks \n ", "[TOOL_CALLS"])
def test_an_answer_without_calls_is_its_text(text: str):
    for call_format in (HERMES, MISTRAL, CONTROL):
        assert parse(call_format, list(text)) == (text, [])


def test_a_mark_in_plain_text_is_text_where_it_is_a_token():
    assert parse(CONTROL, ['[TOOL_CALLS][{"name"']) == ('[TOOL_CALLS][{"name"', [])


def test_text_is_held_back_no_longer_than_it_may_begin_a_call():
    parser = CallParser(HERMES)
    assert parser.push("one <tool") == ("one", ())
    assert parser.push("s> two") == (" <tools> two", ())
    assert parser.push(" ") == ("", ())
    assert parser.flush() == " "


def test_the_first_piece_of_a_call_has_id_and_name():
    _, calls = parse(HERMES, ['<tool_call>{"name": "f", "arguments": {"a"', ": 1}"])
    assert calls == [CallPiece(0, '{"a"', "id", "f"), CallPiece(0, ": 1}")]


def test_a_call_whose_name_is_not_complete_is_none():
    assert parse(HERMES, ['so <tool_call>{"name": "f']) == ("so", [])
