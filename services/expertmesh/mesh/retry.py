"""Which failed calls are sent again, and after which pause. Knows failures, neither rows nor who is asked instead."""

from collections.abc import Iterator

from expertmesh.errors import ComputeError, ExpertmeshError
from expertmesh.mesh.link import LinkLostError
from expertmesh.wire.failures import CallFailure, FailureCode

# Reasons for which the same call is worth sending again, to another replica where there is one.
RETRYABLE = frozenset({FailureCode.BUSY, FailureCode.DRAINING, FailureCode.DEADLINE_EXCEEDED})
FIRST_RETRY_SECONDS = 0.01
MAX_RETRY_SECONDS = 1.0


def retry_pauses() -> Iterator[float]:
    """Yield how long to wait after each failure in a row, in seconds; there is no last one."""
    pause = FIRST_RETRY_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, MAX_RETRY_SECONDS)


def check_retryable(error: LinkLostError | CallFailure, layer: int, endpoint: str) -> ExpertmeshError:
    """Return an error that may pass; raise ComputeError for one that will not."""
    if isinstance(error, CallFailure) and error.code not in RETRYABLE:
        raise ComputeError(f"layer {layer} on {endpoint}: {error}") from error
    return error
