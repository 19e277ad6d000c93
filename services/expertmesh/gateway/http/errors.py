"""One place that says which status and body an error becomes, in OpenAI's shape and in TGI's."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from expertmesh.errors import (
    CheckpointError,
    ConfigError,
    ExpertmeshError,
    ExpertUnavailableError,
    ForbiddenError,
    InvalidRequestError,
    PromptTooLongError,
    QueueFullError,
    ShuttingDownError,
    UnauthenticatedError,
    shortened,
)
from expertmesh.gateway.http.request_ids import request_id_of
from expertmesh.gateway.http.validation import describe_validation

_log = logging.getLogger(__name__)

# Fields that have another name inside the gateway.
FIELD_NAMES = {"stop_ids": "stop_token_ids"}
TGI_PATHS = frozenset({"/", "/v1", "/generate", "/generate_stream", "/info"})


class Shape(Enum):
    """Whose errors a client expects."""

    OPENAI = "openai"
    TGI = "tgi"


class ModelNotFoundError(ExpertmeshError):
    """A request names a model that is not served here."""


class ParameterError(InvalidRequestError):
    """A field of a request asks for something that cannot be done; its message begins with ``param``, the field."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}", param)


class ClientGoneError(ExpertmeshError):
    """The client hung up before its answer was complete."""


@dataclass(frozen=True)
class Problem:
    """An error as a client sees it: ``kind`` and ``code`` are OpenAI's, the ``tgi_`` fields TGI's."""

    status: int
    kind: str
    code: str | None
    tgi_status: int
    tgi_kind: str
    headers: tuple[tuple[str, str], ...] = ()
    message: str = ""
    param: str | None = None


_INVALID = Problem(400, "invalid_request_error", None, 422, "validation")
_INTERNAL = Problem(500, "server_error", "internal_error", 424, "generation")
_OF_ERRORS: tuple[tuple[type[Exception], Problem], ...] = (
    (
        UnauthenticatedError,
        replace(
            _INVALID,
            status=401,
            code="invalid_api_key",
            tgi_status=401,
            tgi_kind="authentication",
            headers=(("WWW-Authenticate", "Bearer"),),
        ),
    ),
    (
        ForbiddenError,
        replace(
            _INVALID,
            status=403,
            code="insufficient_scope",
            tgi_status=403,
            tgi_kind="permission",
            headers=(("WWW-Authenticate", 'Bearer error="insufficient_scope"'),),  # RFC 6750, section 3.1
        ),
    ),
    (ModelNotFoundError, replace(_INVALID, status=404, code="model_not_found", tgi_status=404, param="model")),
    (PromptTooLongError, replace(_INVALID, code="context_length_exceeded")),
    (InvalidRequestError, _INVALID),
    (ClientGoneError, _INVALID),
    (QueueFullError, Problem(429, "rate_limit_error", "queue_full", 429, "overloaded", (("Retry-After", "1"),))),
    (
        ExpertUnavailableError,
        Problem(503, "server_error", "expert_unavailable", 503, "generation", (("Retry-After", "5"),)),
    ),
    (
        ShuttingDownError,
        Problem(503, "server_error", "shutting_down", 503, "generation", (("Retry-After", "1"),)),
    ),
    (ExpertmeshError, _INTERNAL),
)
# Whose words are for those who run the gateway: they name its files and flags.
_NOT_FOR_CLIENTS = (CheckpointError, ConfigError)


def shape_of(path: str) -> Shape:
    """Tell whose shape the replies of a path have."""
    return Shape.TGI if path in TGI_PATHS else Shape.OPENAI


def problem_of(error: Exception, request_id: str = "") -> Problem:
    """Say what a client sees of ``error``. What is no client's business is logged here, and its text stays here."""
    problem = _problem_of(error, request_id)
    return replace(problem, message=shortened(problem.message))


def _problem_of(error: Exception, request_id: str) -> Problem:
    if isinstance(error, RequestValidationError):
        param, message = describe_validation(error)
        return replace(_INVALID, message=message, param=param)
    if isinstance(error, HTTPException):
        return _of_status(error)
    for kind, problem in _OF_ERRORS:
        if isinstance(error, kind) and not isinstance(error, _NOT_FOR_CLIENTS):
            field: str | None = getattr(error, "param", problem.param)
            return replace(problem, message=str(error), param=FIELD_NAMES.get(field or "", field))
    _log.error("unexpected error in request %s", request_id, exc_info=error)
    return replace(_INTERNAL, message=f"internal error ({type(error).__name__}); the gateway's log has the details")


def error_body(problem: Problem, shape: Shape) -> str:
    """Encode what a client reads, as ASCII: messages quote what clients sent, which may be no valid Unicode."""
    if shape is Shape.TGI:
        return json.dumps({"error": problem.message, "error_type": problem.tgi_kind})
    fields = {"message": problem.message, "type": problem.kind, "param": problem.param, "code": problem.code}
    return json.dumps({"error": fields})


def error_response(error: Exception, path: str, request_id: str = "") -> Response:
    """Answer a request with an error, in the shape of its path."""
    problem, shape = problem_of(error, request_id), shape_of(path)
    status = problem.tgi_status if shape is Shape.TGI else problem.status
    return Response(error_body(problem, shape), status, dict(problem.headers), "application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Have every error of a route answered here."""

    async def handle(request: Request, error: Exception) -> Response:
        return error_response(error, request.url.path, request_id_of(request.scope))

    for kind in (ExpertmeshError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def _of_status(error: HTTPException) -> Problem:
    """Keep the status of what the framework refused, such as an unknown path or a body that is too large."""
    headers: Mapping[str, str] = error.headers or {}
    values: dict[str, Any] = {"status": error.status_code, "tgi_status": error.status_code}
    return replace(_INVALID, **values, message=str(error.detail), headers=tuple(headers.items()))
