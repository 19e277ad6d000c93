"""What goes wrong between gateway and expert server, as exceptions and as a message. Knows no transport."""

from collections.abc import Sequence
from enum import IntEnum

from expertmesh.errors import ExpertmeshError
from expertmesh.v1 import expert_pb2

# What a failure says beyond this is cut: whoever sent what was wrong may have sent very much of it.
MAX_MESSAGE_CHARS = 1000
_MAX_LISTED = 8


class WireError(ExpertmeshError, ValueError):
    """A message that cannot be encoded or decoded; it names dtype, shape or byte count."""


class FailureCode(IntEnum):
    """The reasons of ``Failure.Code`` in expert.proto, which says what each means."""

    UNSPECIFIED = expert_pb2.Failure.CODE_UNSPECIFIED
    BUSY = expert_pb2.Failure.CODE_BUSY
    DRAINING = expert_pb2.Failure.CODE_DRAINING
    EXPERT_NOT_HOSTED = expert_pb2.Failure.CODE_EXPERT_NOT_HOSTED
    FINGERPRINT_MISMATCH = expert_pb2.Failure.CODE_FINGERPRINT_MISMATCH
    INVALID_REQUEST = expert_pb2.Failure.CODE_INVALID_REQUEST
    DEADLINE_EXCEEDED = expert_pb2.Failure.CODE_DEADLINE_EXCEEDED
    COMPUTE_FAILED = expert_pb2.Failure.CODE_COMPUTE_FAILED
    DAMAGED = expert_pb2.Failure.CODE_DAMAGED


class CallFailure(ExpertmeshError):
    """An expert server refuses or fails one call; ``code`` says why and ``message`` names the values."""

    def __init__(self, code: FailureCode, message: str) -> None:
        self.code = code
        self.message = message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]} ..."
        super().__init__(f"{code.name}: {self.message}")


def without_traceback(failure: CallFailure) -> CallFailure:
    """Return a failure to be kept: one that was raised knows the frames it went through, and these the call."""
    return CallFailure(failure.code, failure.message)


def few(numbers: Sequence[int]) -> str:
    """List numbers, of many only the first."""
    listed = ", ".join(map(str, numbers[:_MAX_LISTED]))
    num_more = len(numbers) - _MAX_LISTED
    return f"[{listed}, and {num_more} more]" if num_more > 0 else f"[{listed}]"


def damage(what: str, found: int, right: int) -> CallFailure:
    """Say that ``what`` arrived with other bytes than were sent, as its checksum is not the ``right`` one."""
    message = f"{what} was damaged on its way: its checksum is {found:08x}, {right:08x} would be right"
    return CallFailure(FailureCode.DAMAGED, message)


def encode_failure(failure: CallFailure) -> expert_pb2.Failure:
    """Turn a failure into its message."""
    return expert_pb2.Failure(code=f"CODE_{failure.code.name}", message=failure.message)


def decode_failure(message: expert_pb2.Failure) -> CallFailure:
    """Turn a message into a failure; a code of a newer server becomes UNSPECIFIED and stays named in the message."""
    try:
        return CallFailure(FailureCode(message.code), message.message)
    except ValueError:
        return CallFailure(FailureCode.UNSPECIFIED, f"unknown failure code {message.code}: {message.message}")
