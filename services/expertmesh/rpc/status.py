"""One place that says which gRPC status an error becomes."""

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from expertmesh.errors import (
    ComputeError,
    ConfigError,
    ExpertUnavailableError,
    FingerprintMismatchError,
    ForbiddenError,
    InvalidRequestError,
    QueueFullError,
    ShuttingDownError,
    UnauthenticatedError,
    shortened,
)
from expertmesh.rpc.metadata import NEVER_AGAIN, RETRY_PUSHBACK_KEY, request_id
from expertmesh.wire.failures import CallFailure, FailureCode, WireError

_log = logging.getLogger(__name__)

_OF_FAILURES = {
    FailureCode.UNSPECIFIED: grpc.StatusCode.INTERNAL,
    FailureCode.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailureCode.DRAINING: grpc.StatusCode.UNAVAILABLE,
    FailureCode.EXPERT_NOT_HOSTED: grpc.StatusCode.NOT_FOUND,
    FailureCode.FINGERPRINT_MISMATCH: grpc.StatusCode.FAILED_PRECONDITION,
    FailureCode.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    FailureCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    FailureCode.COMPUTE_FAILED: grpc.StatusCode.INTERNAL,
    FailureCode.DAMAGED: grpc.StatusCode.DATA_LOSS,
}
_OF_ERRORS: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (ForbiddenError, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (WireError, grpc.StatusCode.INVALID_ARGUMENT),
    (QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ExpertUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (ShuttingDownError, grpc.StatusCode.UNAVAILABLE),
    (FingerprintMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
    (ComputeError, grpc.StatusCode.INTERNAL),
    (ConfigError, grpc.StatusCode.INTERNAL),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)
# Those that a full queue refuses come back after 0.5 to 1.5 s, not all at once.
_PUSHBACK_MS = (500, 1500)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str] | None:
    """Return the status code and details that a client sees, or None for an error that nobody foresaw."""
    if isinstance(error, CallFailure):
        return _OF_FAILURES[error.code], str(error)
    for kind, code in _OF_ERRORS:
        if isinstance(error, kind):
            return code, str(error) or kind.__name__
    return None


def retry_hint(error: Exception) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata by which gRPC's clients know when to send a refused request again (gRFC A6)."""
    match error:
        case QueueFullError():
            return ((RETRY_PUSHBACK_KEY, str(random.randint(*_PUSHBACK_MS))),)
        case ExpertUnavailableError():  # the gateway has waited as long as it was told to
            return ((RETRY_PUSHBACK_KEY, NEVER_AGAIN),)
    return ()


@asynccontextmanager
async def report_errors(context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[None]:
    """End the rpc with the right status when the body of a servicer method raises.

    What nobody foresaw is logged here with its traceback and reaches the client as INTERNAL without one.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        trailing = tuple(context.trailing_metadata() or ())
        code, details = status_of(error) or _unexpected(error, request_id(trailing))
        await context.abort(code, shortened(details), (*retry_hint(error), *trailing))


def _unexpected(error: Exception, name: str) -> tuple[grpc.StatusCode, str]:
    _log.error("unexpected error in an rpc%s", f", request {name}" if name else "", exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error ({type(error).__name__}); the server's log has the details"
