import json

import pytest
from starlette.exceptions import HTTPException

from expertmesh.engine.messages import EngineError
from expertmesh.errors import (
    MAX_TOLD,
    CheckpointError,
    ComputeError,
    ConfigError,
    ExpertUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    PromptTooLongError,
    QueueFullError,
    ShuttingDownError,
    UnauthenticatedError,
)
from expertmesh.gateway.http.errors import (
    ModelNotFoundError,
    ParameterError,
    error_response,
    problem_of,
)

CASES = (
    (UnauthenticatedError("x", "no_key"), 401, 401, "authentication"),
    (ForbiddenError("x", "missing_scope"), 403, 403, "permission"),
    (ModelNotFoundError("x"), 404, 404, "validation"),
    (InvalidRequestError("x"), 400, 422, "validation"),
    (ParameterError("top_p", "x"), 400, 422, "validation"),
    (PromptTooLongError("x"), 400, 422, "validation"),
    (QueueFullError("x"), 429, 429, "overloaded"),
    (ExpertUnavailableError("x"), 503, 503, "generation"),
    (ShuttingDownError("x"), 503, 503, "generation"),
    (ComputeError("x"), 500, 424, "generation"),
    (EngineError("x"), 500, 424, "generation"),
    (HTTPException(405, "x", {"Allow": "GET"}), 405, 405, "validation"),
)


@pytest.mark.parametrize(("error", "openai", "tgi", "kind"), CASES, ids=lambda value: type(value).__name__)
def test_every_error_has_a_status_and_a_body_in_both_shapes(error, openai, tgi, kind):
    reply = error_response(error, "/v1/completions")
    fields = json.loads(reply.body)["error"]
    assert (reply.status_code, set(fields)) == (openai, {"message", "type", "param", "code"})
    assert fields["message"].endswith("x")
    reply = error_response(error, "/generate")
    assert (reply.status_code, json.loads(reply.body)) == (tgi, {"error": fields["message"], "error_type": kind})


def test_headers_say_what_to_do():
    for error, name in ((QueueFullError(), "Retry-After"), (ExpertUnavailableError(), "Retry-After")):
        assert int(error_response(error, "/").headers[name]) > 0
    assert error_response(UnauthenticatedError("x", "no_key"), "/").headers["WWW-Authenticate"] == "Bearer"
    asked = error_response(ForbiddenError("x", "missing_scope"), "/").headers["WWW-Authenticate"]
    assert asked == 'Bearer error="insufficient_scope"'
    assert error_response(HTTPException(405, "x", {"Allow": "GET"}), "/").headers["Allow"] == "GET"


def test_fields_are_named():
    assert problem_of(ParameterError("top_p", "is wrong")).param == "top_p"
    assert problem_of(InvalidRequestError("stop_ids names token 9", "stop_ids")).param == "stop_token_ids"
    assert problem_of(InvalidRequestError("it is wrong")).param is None
    assert problem_of(ModelNotFoundError("x")).param == "model"


def test_what_nobody_foresaw_is_logged_and_kept_to_the_gateway(caplog):
    problem = problem_of(KeyError("a secret"))
    assert (problem.status, problem.tgi_status) == (500, 424)
    assert "secret" not in problem.message
    assert "a secret" in caplog.text


def test_bodies_are_ascii_whatever_they_quote():
    error_response(InvalidRequestError("\ud800 é"), "/").body.decode("ascii")


def test_no_client_is_told_more_than_it_can_read():
    message = problem_of(InvalidRequestError("x" * 100_000)).message
    assert message == "x" * MAX_TOLD + "..."
    assert problem_of(InvalidRequestError("x" * MAX_TOLD)).message == "x" * MAX_TOLD


@pytest.mark.parametrize("kind", [CheckpointError, ConfigError])
def test_what_is_wrong_with_files_of_the_gateway_is_for_its_log(kind, caplog):
    problem = problem_of(kind("/srv/model/tokenizer.model is damaged"), "job 7")
    assert (problem.status, "/srv" in problem.message, kind.__name__ in problem.message) == (500, False, True)
    assert "/srv/model/tokenizer.model is damaged" in caplog.text and "job 7" in caplog.text
