import pytest

from expertmesh.v1 import expert_pb2
from expertmesh.wire.failures import (
    MAX_MESSAGE_CHARS,
    CallFailure,
    FailureCode,
    decode_failure,
    encode_failure,
    few,
    without_traceback,
)


def test_codes_mirror_the_proto():
    codes = {f"CODE_{code.name}": int(code) for code in FailureCode}
    assert codes == dict(expert_pb2.Failure.Code.items())


@pytest.mark.parametrize("code", FailureCode)
def test_round_trip(code):
    failure = decode_failure(encode_failure(CallFailure(code, "layer 40, there are 32")))
    assert (failure.code, failure.message) == (code, "layer 40, there are 32")
    assert str(failure) == f"{code.name}: layer 40, there are 32"


def test_a_code_of_a_newer_server_is_kept_in_the_message():
    failure = decode_failure(expert_pb2.Failure(code=77, message="too hot"))
    assert (failure.code, failure.message) == (FailureCode.UNSPECIFIED, "unknown failure code 77: too hot")


def test_a_message_is_bounded_whatever_it_repeats():
    failure = CallFailure(FailureCode.INVALID_REQUEST, "x" * 10**6)
    assert failure.message == "x" * MAX_MESSAGE_CHARS + " ..."
    assert str(failure) == f"INVALID_REQUEST: {failure.message}"


def test_of_many_numbers_a_few_are_listed():
    assert few([]) == "[]"
    assert few(range(8)) == "[0, 1, 2, 3, 4, 5, 6, 7]"
    assert few(range(1_000_000)) == "[0, 1, 2, 3, 4, 5, 6, 7, and 999992 more]"


def test_a_failure_that_is_kept_knows_no_frames():
    try:
        raise CallFailure(FailureCode.BUSY, "full")
    except CallFailure as raised:
        kept = without_traceback(raised)
    assert (kept.code, kept.message, kept.__traceback__, kept.__context__) == (FailureCode.BUSY, "full", None, None)
