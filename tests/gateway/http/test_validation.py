import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from expertmesh.gateway.http.openai.requests import CompletionRequest
from expertmesh.gateway.http.validation import MAX_PATH, describe_validation, field_path


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


@pytest.mark.parametrize("value", [[["x"] * 100_000], {"x" * 100_000: 1}, [list(range(10_000))] * 100, 10**4000])
def test_no_more_of_a_value_is_looked_at_than_is_shown(value):
    assert len(describe({"prompt": "a", "seed": value})[1]) < 200


def test_names_of_unknown_fields_are_cut():
    param, message = describe({"prompt": "a", "x" * 10_000: 1})
    assert (len(param), message.endswith(": is not supported")) == (MAX_PATH, True)


def test_lists_that_are_too_long_are_counted():
    message = "prompt: has 1025 elements; at most 1024 are taken"
    assert describe({"prompt": ["a"] * 1025}) == ("prompt", message)


def test_variants_of_unions_are_no_part_of_a_path():
    assert field_path(("body", "stop", "<list>", 3)) == "stop[3]"
    assert field_path(("body", "a", "list[int]", 0, "str")) == "a[0]"
    assert field_path(("body",)) == ""
