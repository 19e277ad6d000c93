import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from expertmesh.gateway.http.openai.requests import CompletionRequest
from expertmesh.gateway.http.validation import describe_validation, field_path


def describe(body: object) -> tuple[str | None, str]:
    with pytest.raises(ValidationError) as error:
        CompletionRequest.model_validate(body)
    errors = [{**one, "loc": ("body", *one["loc"])} for one in error.value.errors()]
    return describe_validation(RequestValidationError(errors, body=body))


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "prompt: is required"),
        ({"prompt": "a", "nonsense": 1}, "nonsense", "nonsense: is not supported"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "suffix: is not supported"),
        ({"prompt": [1, "a"]}, "prompt[1]", "prompt[1]: Input should be a valid integer, not 'a'"),
        ({"prompt": [[1], [2, None]]}, "prompt[1][1]", "prompt[1][1]: Input should be a valid integer, not None"),
        ({"prompt": "a", "stop": ["b", ""]}, "stop[1]", "stop[1]: String should have at least 1 character, not ''"),
        ({"prompt": 5}, "prompt", "prompt: Input should be a valid string, not 5"),
    ],
)
def test_the_field_and_the_value_found_are_named(body, param, message):
    assert describe(body) == (param, message)


def test_long_values_are_cut():
    assert len(describe({"prompt": "a", "seed": "x" * 10_000})[1]) < 200


def test_variants_of_unions_are_no_part_of_a_path():
    assert field_path(("body", "stop", "<list>", 3)) == "stop[3]"
    assert field_path(("body", "a", "list[int]", 0, "str")) == "a[0]"
    assert field_path(("body",)) == ""
