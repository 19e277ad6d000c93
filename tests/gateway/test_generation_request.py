from typing import Any

import pytest

from expertmesh.errors import InvalidRequestError
from expertmesh.gateway.generation_request import GenerationRequest
from expertmesh.model.sampling import SamplingParams
from expertmesh.text.grammar import Grammar, GrammarKind

JSON_OBJECT = Grammar(GrammarKind.JSON_OBJECT)


@pytest.mark.parametrize(
    "fields", [{}, {"n": 64}, {"n": 2, "best_of": 2}, {"stop": ("x",) * 16}, {"grammar": JSON_OBJECT}], ids=str
)
def test_values_at_the_borders_are_fine(fields: dict[str, Any]):
    GenerationRequest((1,), SamplingParams(), **fields).validate()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, "^n is 0"),
        ({"n": 65}, "^n is 65"),
        ({"n": 3, "best_of": 2}, "^best_of is 2; it must be from n, 3, to 64"),
        ({"stop": ("x",) * 17}, "^stop has 17 strings"),
        ({"stop": ("x", "")}, "^stop has an empty string"),
    ],
    ids=str,
)
def test_values_beyond_are_named(fields: dict[str, Any], message: str):
    with pytest.raises(InvalidRequestError, match=message):
        GenerationRequest((1,), SamplingParams(), **fields).validate()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"ignore_eos": True}, "^ignore_eos is True; with a grammar"), ({"min_tokens": 3}, "^min_tokens is 3; with a")],
    ids=str,
)
def test_a_grammar_says_itself_where_the_answer_ends(fields: dict[str, Any], message: str):
    GenerationRequest((1,), SamplingParams(**fields)).validate()
    with pytest.raises(InvalidRequestError, match=message):
        GenerationRequest((1,), SamplingParams(**fields), grammar=JSON_OBJECT).validate()
