import pytest

from expertmesh.gateway.http.tgi.models import Parameters
from expertmesh.gateway.http.tgi.sampling import generation_request
from expertmesh.text.grammar import Grammar, GrammarKind


def request(**parameters):
    return generation_request(Parameters.model_validate(parameters), [1, 2], continues_text=True)


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": False, "temperature": 0.5}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.5}, 0.5),
        ({"top_p": 0.9}, 1.0),
        ({"top_k": 3, "do_sample": False}, 0.0),
    ],
)
def test_tokens_are_drawn_if_do_sample_or_else_a_parameter_of_drawing_says_so(parameters, temperature):
    assert request(**parameters).sampling.temperature == temperature


def test_seeds_are_known_where_tokens_are_drawn():
    assert request().sampling.seed is None
    assert request(do_sample=True).sampling.seed is not None
    assert request(do_sample=True, seed=3).sampling.seed == 3


def test_a_hundred_tokens_are_produced_unless_told():
    assert request().sampling.max_tokens == 100
    assert request(max_new_tokens=5).sampling.max_tokens == 5


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        ({"type": "json", "value": {"type": "object"}}, Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')),
        ({"type": "json", "value": '{"type": "object"}'}, Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object"}')),
        ({"type": "json_schema", "value": {"schema": {}}}, Grammar(GrammarKind.JSON_SCHEMA, "{}")),
        ({"type": "regex", "value": "[ab]+"}, Grammar(GrammarKind.REGEX, "[ab]+")),
    ],
)
def test_grammars_are_translated(grammar, expected):
    assert request(grammar=grammar).grammar == expected
