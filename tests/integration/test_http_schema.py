"""Requests made from the OpenAPI document, right and wrong: the gateway fails at none of them and keeps to its word."""

from collections.abc import Iterator

import pytest
import schemathesis
from http_serving import Served, serving
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

WITH_BODY = (
    *("/tokenize", "/detokenize", "/v1/chat/completions", "/v1/responses", "/v1/completions"),
    *("/", "/generate_stream"),
)
PATHS = (*WITH_BODY, "/v1", "/generate", "/health", "/ready", "/version", "/v1/models", "/v1/models/{model}", "/info")
SETTINGS = settings(
    max_examples=10, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    # Answers that fill the context are short.
    with serving(max_model_len=32) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def document(served: Served) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, GenerationMode.POSITIVE) for path in PATHS] + [(path, GenerationMode.NEGATIVE) for path in WITH_BODY],
)
def test_no_request_makes_the_gateway_fail_or_hang(
    served: Served, document: schemathesis.BaseSchema, path: str, mode: GenerationMode
) -> None:
    for operation in document[path].values():
        check(operation, mode)
    served.wait_idle()


def check(operation: schemathesis.APIOperation, mode: GenerationMode) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @SETTINGS
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=30)

    ask()


LOGPROBS = {"prompt_logprobs": 2, "return_routed_experts": True, "logit_bias": {"5": 1}, "n": 2, "temperature": 1}
EVERYTHING = {
    "/v1/completions": {"prompt": ["a", "b"], "logprobs": 2, "echo": True, **LOGPROBS},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "logprobs": True,
        "top_logprobs": 2,
        **LOGPROBS,
    },
    "/v1/responses": {
        "input": "a",
        "tools": [{"type": "function", "name": "b", "parameters": {"type": "object"}}],
        "tool_choice": "none",
        "text": {"format": {"type": "json_schema", "name": "c", "schema": {"type": "integer"}}},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    },
    "/": {"inputs": "a", "parameters": {"details": True, "top_n_tokens": 2}},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", EVERYTHING)
def test_replies_with_all_that_they_may_hold_fit_the_document(document, path: str, stream: bool) -> None:
    case = document[path]["POST"].Case(body={**EVERYTHING[path], "stream": stream}, media_type="application/json")
    assert case.call_and_validate(checks=CHECKS, timeout=30).status_code == 200


def test_the_document_describes_every_route_with_its_errors(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    assert set(document["paths"]) == set(PATHS)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all(operation["summary"] and operation["description"] for operation in operations)
    assert all(operation["responses"]["200"]["content"] for operation in operations)
    posts = [path["post"] for path in document["paths"].values() if "post" in path]
    assert all({"401", "403", "413"} <= set(operation["responses"]) for operation in posts)
    for schema in document["components"]["schemas"].values():
        assert schema.get("description"), schema
