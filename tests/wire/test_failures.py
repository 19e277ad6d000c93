import pytest

from expertmesh.v1 import expert_pb2
from expertmesh.wire.failures import CallFailure, FailureCode, decode_failure, encode_failure


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
