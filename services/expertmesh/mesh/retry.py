"""Which failures of calls pass by themselves, and after which pause. Knows failures, neither rows nor replicas."""

from collections.abc import Iterator

from expertmesh.errors import ExpertmeshError
from expertmesh.mesh.link import LinkLostError
from expertmesh.wire.failures import CallFailure, FailureCode

# Reasons that have nothing to do with the call: it is worth sending again for as long as there is time.
PASSING = frozenset({FailureCode.BUSY, FailureCode.DRAINING, FailureCode.DEADLINE_EXCEEDED, FailureCode.DAMAGED})
FIRST_RETRY_SECONDS = 0.01
MAX_RETRY_SECONDS = 1.0


def retry_pauses() -> Iterator[float]:
    """Yield how long to wait after each failure in a row, in seconds; there is no last one."""
    pause = FIRST_RETRY_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, MAX_RETRY_SECONDS)


def is_damage(error: ExpertmeshError) -> bool:
    """Whether a call failed because its bytes, or those of its answer, were changed on their way."""
    return isinstance(error, CallFailure) and error.code is FailureCode.DAMAGED


def is_passing(error: ExpertmeshError) -> bool:
    """Whether a call that failed with ``error`` may be answered later; else by another replica, if by any."""
    return isinstance(error, LinkLostError) or (isinstance(error, CallFailure) and error.code in PASSING)
