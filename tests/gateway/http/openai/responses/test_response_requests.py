from typing import Any

import pytest
from pydantic import ValidationError

from expertmesh.gateway.http.openai.responses.items import MessageItem
from expertmesh.gateway.http.openai.responses.requests import ResponseRequest
from expertmesh.text.grammar import Grammar, GrammarKind
from expertmesh.text.tools import Tool, ToolChoice, ToolUse

NOW = {"type": "function", "name": "now"}
TOOL = Tool("now", parameters=None)


def request(**fields: Any) -> ResponseRequest:
    return ResponseRequest.model_validate({"input": "a", **fields})


@pytest.mark.parametrize(
    ("fields", "items"),
    [
        ({}, [("user", "a")]),
        ({"instructions": "b"}, [("system", "b"), ("user", "a")]),
        ({"instructions": "", "input": [{"role": "user", "content": "c"}]}, [("system", ""), ("user", "c")]),
    ],
)
def test_instructions_stand_before_the_input(fields, items):
    assert request(**fields).items() == [MessageItem(role=role, content=content) for role, content in items]


@pytest.mark.parametrize(
    ("fields", "use"),
    [
        ({}, ToolUse()),
        ({"tools": [NOW]}, ToolUse((TOOL,))),
        ({"tools": [NOW], "tool_choice": "required"}, ToolUse((TOOL,), ToolChoice.REQUIRED)),
        ({"tools": [NOW], "tool_choice": "none"}, ToolUse((TOOL,), ToolChoice.NONE)),
        ({"tools": [NOW], "tool_choice": NOW}, ToolUse((TOOL,), ToolChoice.REQUIRED, "now")),
        ({"tools": [NOW], "parallel_tool_calls": False}, ToolUse((TOOL,), is_parallel=False)),
    ],
)
def test_tools_are_what_an_answer_may_call(fields, use):
    assert request(**fields).tool_use() == use


SCHEMA = {"type": "json_schema", "name": "pair", "schema": {"type": "array"}}


@pytest.mark.parametrize(
    ("text", "grammar"),
    [
        ({}, None),
        ({"format": {"type": "text"}}, None),
        ({"format": {"type": "json_object"}}, Grammar(GrammarKind.JSON_OBJECT)),
        ({"format": SCHEMA}, Grammar(GrammarKind.JSON_SCHEMA, '{"type": "array"}')),
    ],
)
def test_the_format_of_the_text_is_a_grammar(text, grammar):
    assert request(text=text).text.grammar() == grammar


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": {"format": {"type": "xml"}}}, "one of the types text, json_object and json_schema"),
        ({"tools": [{"type": "web_search"}]}, "type is 'web_search'; only functions"),
        ({"input": []}, "at least 1 item"),
    ],
)
def test_what_is_not_there_is_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        request(**fields)
