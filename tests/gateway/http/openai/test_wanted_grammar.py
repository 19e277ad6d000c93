import pytest

from expertmesh.gateway.http.errors import ParameterError
from expertmesh.gateway.http.openai.requests import CompletionRequest
from expertmesh.gateway.http.openai.wanted_grammar import read_grammar
from expertmesh.text.grammar import Grammar, GrammarKind

SCHEMA = {"type": "array"}
OF_SCHEMA = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "array"}')
ANY_OBJECT = Grammar(GrammarKind.JSON_OBJECT)
OF_REGEX = Grammar(GrammarKind.REGEX, "a+")
OF_RULES = Grammar(GrammarKind.RULES, 'start: "a"')
OF_CHOICE = Grammar(GrammarKind.RULES, r'start: "yes" | "n\"o"')
CHOICE = ["yes", 'n"o']


def grammar_of(**fields):
    return read_grammar(CompletionRequest.model_validate({"prompt": "a", **fields}))


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ANY_OBJECT),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, OF_SCHEMA),
        ({"response_format": {"type": "json_object", "value": SCHEMA}}, OF_SCHEMA),
        ({"response_format": {"type": "json", "value": '{"type": "array"}'}}, OF_SCHEMA),
        ({"response_format": {"type": "regex", "value": "a+"}}, OF_REGEX),
        ({"guided_json": SCHEMA}, OF_SCHEMA),
        ({"guided_json": '{"type": "array"}'}, OF_SCHEMA),
        ({"guided_regex": "a+"}, OF_REGEX),
        ({"guided_choice": CHOICE}, OF_CHOICE),
        ({"guided_grammar": 'start: "a"'}, OF_RULES),
        ({"structured_outputs": {"json": SCHEMA, "regex": None, "json_object": False}}, OF_SCHEMA),
        ({"structured_outputs": {"json": {}}}, Grammar(GrammarKind.JSON_SCHEMA, "{}")),
        ({"structured_outputs": {"regex": "a+"}}, OF_REGEX),
        ({"structured_outputs": {"choice": CHOICE}}, OF_CHOICE),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, OF_RULES),
        ({"structured_outputs": {"json_object": True, "disable_fallback": True}}, ANY_OBJECT),
        ({"structured_outputs": {"json_object": True}, "response_format": {"type": "text"}}, ANY_OBJECT),
    ],
    ids=str,
)
def test_every_form_means_the_same(fields, grammar):
    assert grammar_of(**fields) == grammar


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_json": SCHEMA, "guided_regex": "a+"}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
)
def test_two_grammars_contradict_each_other(fields, param):
    with pytest.raises(ParameterError) as error:
        grammar_of(**fields)
    assert error.value.param == param


@pytest.mark.parametrize(
    "outputs", [{}, {"json_object": False}, {"regex": "a", "choice": ["a"]}, {"choice": []}, {"choice": [""]}]
)
def test_structured_outputs_say_one_thing(outputs):
    with pytest.raises(ValueError, match="structured_outputs"):
        grammar_of(structured_outputs=outputs)
