"""What goes wrong between gateway and expert server, as exceptions and as a message. Knows no transport."""

from enum import IntEnum

from expertmesh.errors import ExpertmeshError
from expertmesh.v1 import expert_pb2


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
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


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
